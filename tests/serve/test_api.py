"""The HTTP API through the official client, around an engine without a model."""

import http.client
import json
import socket
import threading
import urllib.parse

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

import openai
from sampling.letters import LetterTokenizer
from serve.fake_engine import FakeEngine
from serve.running import get, metrics, serving, wait_for

from automem_jax.serve.app import ChatApp, Limits

ASKED = [{"role": "system", "content": "x"}, {"role": "user", "content": "abc"}]
ANSWER = "cbax"  # the letters of all messages, backwards
KEY = "sk-serve-test-0123456789"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def make_app(engine=None, **settings):
    tokenizer = LetterTokenizer()
    settings = {"model": "base", "max_context": 64} | settings
    return ChatApp(engine or FakeEngine(tokenizer), tokenizer, **settings)


def client(url, key="none", **settings):
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=20, **settings)


@pytest.fixture(scope="module")
def url():
    app = make_app()
    app.driver._engine._names["notes"] = 1
    app._adapters["notes"] = None
    with serving(app) as url:
        yield url


def ask(url, **more):
    arguments = {"model": "base", "messages": ASKED, "seed": 0} | more
    return client(url).chat.completions.create(**arguments)


def test_a_plain_answer_with_usage(url):
    answer = ask(url)
    (choice,) = answer.choices
    assert choice.message.content == ANSWER and choice.message.role == "assistant"
    assert (choice.finish_reason, choice.logprobs) == ("stop", None)
    assert answer.usage.completion_tokens == 5  # the end of turn counts, as it was sampled
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.model == "base" and answer.object == "chat.completion"


def test_a_stream_says_the_same(url):
    chunks = list(ask(url, stream=True, stream_options={"include_usage": True}))
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert deltas[0].role == "assistant"
    assert [d.content for d in deltas if d.content] == list(ANSWER)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].usage.completion_tokens == 5 and chunks[-1].choices == []
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_are_cut_unless_kept(url, stream):
    def text(**more):
        answer = ask(url, stop=["ba", "zz"], stream=stream, **more)
        if not stream:
            return answer.choices[0].message.content, answer.choices[0].finish_reason
        chunks = [c.choices[0] for c in answer]
        return "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason

    assert text() == ("c", "stop")
    assert text(extra_body={"include_stop_str_in_output": True}) == ("cba", "stop")
    assert text(extra_body={"no_stop_trim": True}) == ("cba", "stop")


def test_max_tokens_ends_with_length(url):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(url, **{name: 2})
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (
            "cb",
            "length",
        )
        assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_every_token(url, stream):
    answer = ask(url, logprobs=True, stream=stream)
    if stream:
        entries = [
            e for c in answer if c.choices[0].logprobs for e in c.choices[0].logprobs.content
        ]
    else:
        entries = answer.choices[0].logprobs.content
    assert "".join(e.token for e in entries) == ANSWER  # the end of turn has no text
    assert {e.logprob for e in entries} == {-0.5}
    assert [bytes(e.bytes).decode() for e in entries] == list(ANSWER)


def test_several_choices_differ_by_their_key(url):
    answer = ask(url, n=3)
    assert [c.message.content for c in answer.choices] == ["cbax", "dcby", "edcz"]
    assert answer.usage.completion_tokens == 15
    whole = {0: "", 1: ""}
    for chunk in ask(url, n=2, stream=True):
        whole[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert whole == {0: "cbax", 1: "dcby"}


def test_adapters_are_models(url):
    assert [m.id for m in client(url).models.list()] == ["base", "notes"]
    assert client(url).models.retrieve("notes").id == "notes"
    assert ask(url, model="notes").choices[0].message.content == "dcby"
    with pytest.raises(openai.NotFoundError, match="there are: base, notes"):
        client(url).models.retrieve("nothing")


def test_content_may_come_in_parts(url):
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]
    assert (
        ask(
            url,
            messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}],
        )
        .choices[0]
        .message.content
        == ANSWER
    )


@pytest.mark.parametrize(
    "more, param",
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 99}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"extra_body": {"temperture": 1}}, "temperture"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(url, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(url, **more)
    assert caught.value.param == param and param in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_fields_that_ask_for_nothing_are_let_through(url):
    answer = ask(
        url,
        user="me",
        presence_penalty=0.0,
        logit_bias={},
        response_format={"type": "text"},
        extra_body={"top_k": -1, "min_p": 0.05, "repetition_penalty": 1.0, "stop": None},
    )
    assert answer.choices[0].message.content == ANSWER


def test_unknown_model_and_overlong_prompt(url):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(url, model="gpt")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(url, messages=[{"role": "user", "content": "a" * 80}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="64 tokens"):
        ask(url, max_tokens=60)


def raw(url, method, path, body=b"", headers=None):
    """(status, headers, JSON) of one request on its own connection."""
    host = urllib.parse.urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(method, path, body, {"content-type": "application/json"} | (headers or {}))
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), json.loads(data)


def message(role, content, **more):
    """A request with one message; the values are JSON."""
    fields = {"model": '"base"', "messages": f'[{{"role": {role}, "content": {content}}}]'} | more
    return ("{" + ", ".join(f'"{k}": {v}' for k, v in fields.items()) + "}").encode()


@pytest.mark.parametrize(
    "method, path, body, headers, status",
    [
        ("POST", "/v1/chat/completions", b"{", {}, 400),
        ("POST", "/v1/chat/completions", b"[1]", {}, 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, {}, 400),
        ("POST", "/v1/chat/completions", b"\xff", {}, 400),
        ("POST", "/v1/chat/completions", b"{}", {"content-type": "text/plain"}, 415),
        ("POST", "/v1/chat/completions", message('["user"]', '"a"'), {}, 400),
        ("POST", "/v1/chat/completions", message('"user"', '"\\ud800"'), {}, 400),
        ("POST", "/v1/chat/completions", message('"user"', "7"), {}, 400),
        ("POST", "/v1/chat/completions", message('"user"', '"a"', temperature="NaN"), {}, 400),
        ("POST", "/v1/chat/completions", message('"user"', '"a"', seed="1" + "0" * 30), {}, 400),
        ("GET", "/v1/chat/completions", b"", {}, 405),
        ("POST", "/v1/completions", b"{}", {}, 404),
        ("POST", "/v1/load_lora_adapter", b"{}", {}, 404),  # not switched on here
    ],
)
def test_raw_requests_get_json_errors(url, method, path, body, headers, status):
    found, _, data = raw(url, method, path, body, headers)
    assert found == status and data["error"]["message"]


def test_health_and_counters(url):
    assert get(url, "/health") == (200, '{"status": "ok"}')
    ask(url)
    found = metrics(url)
    assert found['automem_http_responses_total{status="200"}'] >= 1
    assert found["automem_http_requests_in_flight"] == 0
    assert found["automem_engine_blocks_used"] == 0
    assert found["automem_engine_requests_total"] >= 1


def test_the_key_is_asked_for_everywhere_but_health():
    with serving(make_app(api_key=KEY)) as url:
        for wrong in ("none", "", KEY[:-1], "ключ".encode().decode("latin-1")):
            status, _, data = raw(
                url, "POST", "/v1/chat/completions", b"{}", {"authorization": f"Bearer {wrong}"}
            )
            assert (status, data["error"]["code"]) == (401, "invalid_api_key")
            assert KEY not in str(data)
        with pytest.raises(openai.AuthenticationError):
            client(url, "wrong").models.list()
        assert get(url, "/health")[0] == 200
        assert raw(url, "GET", "/metrics")[0] == 401
        assert [m.id for m in client(url, KEY).models.list()] == ["base"]


def test_a_body_beyond_the_limit_is_refused_and_the_server_lives():
    with serving(make_app(limits=Limits(body_bytes=1000, body_s=0.3))) as url:
        big = [{"role": "user", "content": "a" * 200_000}]
        with pytest.raises(openai.APIStatusError) as caught:
            ask(url, messages=big)
        assert caught.value.status_code == 413

        def chunks():
            for _ in range(100):
                yield b"a" * 100

        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=20)
        connection.request(
            "POST",
            "/v1/chat/completions",
            chunks(),
            {"content-type": "application/json"},
            encode_chunked=True,
        )
        assert connection.getresponse().status == 413
        slow = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=20)
        slow.putrequest("POST", "/v1/chat/completions")
        slow.putheader("content-type", "application/json")
        slow.putheader("content-length", "50")
        slow.endheaders()
        slow.send(b"{")
        assert slow.getresponse().status == 408
        assert ask(url).choices[0].message.content == ANSWER


def test_more_than_it_takes_is_429_with_a_wait():
    engine = FakeEngine(LetterTokenizer(), queue_limit=3)
    engine.hold = True
    with serving(make_app(engine, limits=Limits(requests=2))) as url:
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(engine._running) == 2)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(url)
        assert caught.value.response.headers["retry-after"] == "1"
        engine.hold = False
        get(url, "/metrics")  # wakes the engine's thread
        for thread in threads:
            thread.join(20)
        assert ask(url).choices[0].message.content == ANSWER
        with pytest.raises(openai.RateLimitError, match="queue"):  # its own queue is full too
            engine.hold = True
            ask(url, n=4)
        wait_for(lambda: not engine._running)  # the three that went in were taken back


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_what_it_held(stream):
    engine = FakeEngine(LetterTokenizer())
    engine.hold = not stream
    with serving(make_app(engine, max_context=4096)) as url:
        body = {"model": "base", "messages": [{"role": "user", "content": "a" * 2000}]}
        body |= {"stream": stream}
        data = json.dumps(body).encode()
        host, port = urllib.parse.urlsplit(url).netloc.split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
            )
            connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + data)
            if stream:
                assert b"200" in connection.recv(100)
            wait_for(lambda: engine.total == 1)
        wait_for(lambda: engine.cancelled == 1 and not engine._running)
        assert engine.steps < 2000
        found = metrics(url)
        assert found["automem_http_disconnects_total"] == 1
        assert found["automem_http_requests_in_flight"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_breaks_is_told_and_ends_the_service(stream, capsys):
    app = make_app(FakeEngine(LetterTokenizer(), fail_at=3))
    ended = threading.Event()
    app.driver.on_broken = ended.set
    with serving(app) as url:
        with pytest.raises(openai.APIError, match="nan in the logits"):
            list(ask(url, stream=stream))
        assert ended.is_set() and app.driver.broken
        with pytest.raises(openai.InternalServerError, match="nan in the logits"):
            ask(url)
        assert raw(url, "GET", "/health")[0] == 503
    assert "FloatingPointError" in capsys.readouterr().err


def test_shutting_down_lets_what_runs_end_and_takes_no_more():
    engine = FakeEngine(LetterTokenizer())
    engine.hold = True
    answers = []
    app = make_app(engine)
    with serving(app) as url:
        thread = threading.Thread(target=lambda: answers.append(ask(url)))
        thread.start()
        wait_for(lambda: engine._running)
        app.server.should_exit = True
        wait_for(lambda: not app.server.servers or not app.server.servers[0].is_serving())
        with pytest.raises(openai.APIConnectionError):
            ask(url)
        engine.hold = False
        app.driver.cancel("nobody")  # wakes the engine's thread
        thread.join(20)
    assert [a.choices[0].message.content for a in answers] == [ANSWER]


def test_shutting_down_does_not_wait_for_ever():
    engine = FakeEngine(LetterTokenizer())
    engine.hold = True
    app = make_app(engine)
    failed = []

    def expect_failure():
        try:
            ask(url)
        except openai.APIError as error:
            failed.append(error)

    with serving(app, shutdown_s=1) as url:
        thread = threading.Thread(target=expect_failure)
        thread.start()
        wait_for(lambda: engine._running)
    thread.join(20)
    assert len(failed) == 1 and not engine._running


def test_adapters_come_and_go_while_it_runs(tmp_path):
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "good").write_text("good")
    (tmp_path / "adapters" / "bad").write_text("bad")
    (tmp_path / "secret").write_text("x")
    app = make_app(adapter_root=tmp_path / "adapters", load_adapter=lambda path: path.read_text())
    with serving(app) as url:

        def post(what, **body):
            return raw(url, "POST", f"/v1/{what}_lora_adapter", json.dumps(body).encode())[0]

        assert post("load", lora_name="n", lora_path="good") == 200
        assert [m.id for m in client(url).models.list()] == ["base", "n"]
        assert ask(url, model="n").choices[0].message.content == "dcby"
        assert post("load", lora_name="m", lora_path="bad") == 400
        for path in ("../secret", str(tmp_path / "secret"), "none"):
            assert post("load", lora_name="m", lora_path=path) == 404
        assert post("load", lora_name="base", lora_path="good") == 400
        assert post("load", lora_name="m") == 400
        assert post("unload", lora_name="n") == 200 and post("unload", lora_name="n") == 404
        with pytest.raises(openai.NotFoundError):
            ask(url, model="n")
