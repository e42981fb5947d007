"""API policies against a real HTTP server on loopback."""

import asyncio
import email.utils
import json
import logging
import random
import threading
import time
import traceback

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from automem_jax.config import ConfigError, PolicyConfig
from automem_jax.policies.anthropic import AnthropicPolicy
from automem_jax.policies.endpoint import public_url, request_seed
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.policies.openai import OpenAIPolicy
from automem_jax.policies.prices import ModelUsage
from automem_jax.policies.retry import (
    RETRY_AFTER_JITTER,
    Backoff,
    EndpointError,
    Retrier,
    retry_after_s,
)
from automem_jax.text.messages import Message, Request, RequestKey, SamplingSettings

SECRET = "sk-very-secret-0123456789"
KINDS = {"openai": OpenAIPolicy, "anthropic": AnthropicPolicy}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", SECRET)


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return request.param


def make_policy(kind, server, waits=None, **settings):
    url = server.base_url if kind == "openai" else server.root_url
    fields = {"timeout_s": 20.0, "max_retries": 3, "backoff_s": 1.0, "concurrency": 4} | settings
    config = PolicyConfig(
        kind=kind, base_url=url, model="base-model", api_key_env="TEST_KEY", **fields
    )
    sleep = (waits if waits is not None else []).append
    return KINDS[kind](config, sleep=sleep, rng=random.Random(0))


def make_request(role="gameplay", episode=1, stop=(), **sampling):
    return Request(
        role=role,
        messages=(
            Message("system", "You keep notes."),
            Message("user", f"episode {episode}"),
            Message("assistant", "<|READ|>notes<|END|>"),
            Message("user", "(empty)"),
        ),
        sampling=SamplingSettings(max_tokens=32, stop=stop, **sampling),
        key=RequestKey(episode=episode, step=2, phase="plan", turn=0),
    )


def test_answers_come_back_in_request_order_with_usage(kind):
    def script(received):
        user = next(m for m in received.body["messages"] if m["role"] == "user")
        return Reply(text=f"answer to {user['content']}")

    with LoopbackServer(script) as server:
        policy = make_policy(kind, server)
        answers = policy.complete([make_request(episode=e) for e in range(9)])
        policy.close()
    assert [a.text for a in answers] == [f"answer to episode {e}" for e in range(9)]
    assert {(a.finish_reason, a.prompt_tokens, a.completion_tokens) for a in answers} == {
        ("stop", 11, 7)
    }
    assert len(server.received) == 9


def test_role_memory_goes_to_the_adapter_model_where_one_is_named(kind):
    with LoopbackServer([Reply("x")]) as server:
        both = make_policy(kind, server, adapter_model="with-adapter")
        both.complete([make_request("memory")])
        both.complete([make_request("gameplay")])
        one = make_policy(kind, server)
        one.complete([make_request("memory")])
    models = [r.body["model"] for r in server.received]
    assert models == ["with-adapter", "base-model", "base-model"]


def test_openai_sends_every_setting_and_a_seed_of_the_request_key():
    with LoopbackServer([Reply("go<|END|>")]) as server:
        policy = make_policy("openai", server, max_tokens=20)
        request = make_request(stop=("<|END|>",), temperature=0.7, top_k=5, min_p=0.05)
        answer = policy.complete([request])[0]
    body = server.received[0].body
    assert body["seed"] == request_seed(0, request.key)
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 1.0, 20)
    assert (body["top_k"], body["min_p"], body["stop"]) == (5, 0.05, ["<|END|>"])
    assert body["include_stop_str_in_output"] is True
    assert body["messages"][0] == {"role": "system", "content": "You keep notes."}
    assert (answer.text, answer.finish_reason) == ("go<|END|>", "stop_string")


def test_openai_restores_a_stop_string_the_server_names_but_cuts():
    body = (
        b'{"choices":[{"index":0,"finish_reason":"stop","stop_reason":"<|END|>",'
        b'"message":{"role":"assistant","content":"<|READ|>a"}}]}'
    )
    with LoopbackServer([Reply(body=body)]) as server:
        answer = make_policy("openai", server).complete([make_request(stop=("<|END|>",))])[0]
    assert (answer.text, answer.finish_reason) == ("<|READ|>a<|END|>", "stop_string")


def test_anthropic_lifts_the_system_prompt_and_sends_only_unusual_settings():
    with LoopbackServer([Reply("x", finish_reason="max_tokens")]) as server:
        policy = make_policy("anthropic", server)
        answer = policy.complete([make_request(stop=("<|END|>",))])[0]
        policy.complete([make_request(temperature=0.0, top_k=3)])
    first, second = (r.body for r in server.received)
    assert first["system"] == "You keep notes."
    assert [m["role"] for m in first["messages"]] == ["user", "assistant", "user"]
    assert first["stop_sequences"] == ["<|END|>"]
    assert "temperature" not in first and "top_k" not in first
    assert (second["temperature"], second["top_k"]) == (0.0, 3)
    assert answer.finish_reason == "length"


def test_seeds_differ_by_key_and_by_run_and_repeat():
    key = RequestKey(1, 2, "log", 0)
    others = [
        RequestKey(2, 2, "log", 0),
        RequestKey(1, 3, "log", 0),
        RequestKey(1, 2, "plan", 0),
        RequestKey(1, 2, "log", 1),
    ]
    seeds = [request_seed(0, k) for k in [key, *others]] + [request_seed(1, key)]
    assert len(set(seeds)) == 6
    assert request_seed(0, key) == seeds[0]
    assert all(0 <= s < 2**31 for s in seeds)


def test_429_waits_as_long_as_the_server_asks(kind):
    script = [Reply(status=429, headers={"Retry-After": "7"}), Reply("ok")]
    waits = []
    with LoopbackServer(script) as server:
        answer = make_policy(kind, server, waits).complete([make_request()])[0]
    assert answer.text == "ok"
    (wait,) = waits
    assert 7.0 <= wait <= 7.0 * (1 + RETRY_AFTER_JITTER)
    assert len(server.received) == 2


def test_500_backs_off_exponentially_with_jitter_then_gives_up(kind):
    waits = []
    with LoopbackServer([Reply(status=500)]) as server:
        answer = make_policy(kind, server, waits).complete([make_request()])[0]
    assert len(server.received) == 4  # one call and three retries
    assert [0.5 * 2**n <= w <= 2**n for n, w in enumerate(waits)] == [True] * 3
    assert answer.finish_reason == "error"
    assert "base-model" in answer.error and "after 4 calls" in answer.error


@pytest.mark.parametrize(
    "bad",
    [
        Reply(body=b"<html>gateway</html>"),
        Reply(body=b'{"choices": [{"mess'),
        Reply(body=b'{"surprise": 1}'),
        Reply(body=b"[1, 2]"),
        Reply(body=b"null"),
        Reply(body=b'{"choices": [], "content": null}'),
        Reply(body=b'{"choices": [{"message": {"content": 5}}], "content": 5}'),
        Reply(reset=True),
        Reply("half of this does not arrive", cut=True),
        Reply(body=b"x", headers={"Content-Encoding": "gzip"}),
    ],
    ids=[
        "html",
        "torn",
        "nonsense",
        "list",
        "null",
        "empty",
        "wrong-kind",
        "reset",
        "half",
        "gzip",
    ],
)
def test_garbage_and_resets_are_tried_again(kind, bad):
    waits = []
    with LoopbackServer([bad, Reply("fine")]) as server:
        answer = make_policy(kind, server, waits).complete([make_request()])[0]
    assert (answer.text, len(server.received), len(waits)) == ("fine", 2, 1)


def test_a_hanging_server_times_out(kind):
    with LoopbackServer([Reply(hang=True)]) as server:
        policy = make_policy(kind, server, timeout_s=0.15, max_retries=1)
        answer = policy.complete([make_request()])[0]
    assert len(server.received) == 2
    assert answer.finish_reason == "error" and "timed out" in answer.error


def test_an_error_in_a_body_of_status_200_is_told():
    body = b'{"error": {"message": "no provider is free", "code": 502}}'
    with LoopbackServer([Reply(body=body)]) as server:
        answer = make_policy("openai", server, max_retries=1).complete([make_request()])[0]
    assert len(server.received) == 2 and "no provider is free" in answer.error


def test_an_http_date_is_waited_for(kind):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    script = [Reply(status=503, headers={"Retry-After": date}), Reply("ok")]
    waits = []
    with LoopbackServer(script) as server:
        assert make_policy(kind, server, waits).complete([make_request()])[0].text == "ok"
    assert 60.0 < waits[0] < 100.0 * (1 + RETRY_AFTER_JITTER)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_request_the_server_refuses_is_not_repeated(kind, status):
    with LoopbackServer([Reply("no such thing", status=status)]) as server:
        answer = make_policy(kind, server).complete([make_request()])[0]
    assert len(server.received) == 1
    assert "after 1 call)" in answer.error and "\n" not in answer.error


def test_one_failure_leaves_the_other_answers_whole(kind):
    def script(received):
        bad = "episode 2" in str(received.body["messages"])
        return Reply(status=400) if bad else Reply("fine")

    with LoopbackServer(script) as server:
        policy = make_policy(kind, server)
        answers = policy.complete([make_request(episode=e) for e in range(4)])
        policy.close()
    assert [a.finish_reason for a in answers] == ["stop", "stop", "error", "stop"]


def test_the_key_is_sent_but_never_told(kind, caplog):
    caplog.set_level(logging.DEBUG)
    echo = Reply(status=401, text=f"bad key {SECRET}")
    with LoopbackServer([echo]) as server:
        policy = make_policy(kind, server)
        answer = policy.complete([make_request()])[0]
    assert SECRET in str(server.received[0].headers)
    told = [answer.error, str(policy.describe()), caplog.text, repr(policy), repr(policy.config)]
    assert "***" in answer.error
    assert not [text for text in told if SECRET in text]


def test_the_raised_error_holds_no_trace_of_the_key():
    class APIStatusError(Exception):  # what both SDKs call theirs
        status_code = 400

    async def call():
        raise APIStatusError("x" * 290 + SECRET)

    retrier = Retrier(Backoff(max_retries=0), secrets=(SECRET,))
    with pytest.raises(EndpointError) as caught:
        asyncio.run(retrier.call(call, f"server {SECRET}"))
    assert caught.value.__context__ is None and caught.value.__cause__ is None
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET[:8] not in text


def test_our_own_bugs_are_not_retried():
    calls = []

    async def call():
        calls.append(1)
        raise KeyError("bug")

    with pytest.raises(KeyError):
        asyncio.run(Retrier(Backoff(), sleep=calls.append).call(call, "x"))
    assert calls == [1]


def test_missing_key_is_told_before_the_first_call(kind, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    config = PolicyConfig(kind=kind, model="m", api_key_env="TEST_KEY")
    with pytest.raises(ConfigError, match="TEST_KEY is not set"):
        KINDS[kind](config)
    with LoopbackServer([Reply("ok")]) as server:  # a loopback server may want none
        assert make_policy(kind, server).complete([make_request()])[0].text == "ok"
    sent = server.received[0].headers
    assert sent.get("authorization") == "Bearer none" or sent.get("x-api-key") == "none"


def test_missing_model_is_named(kind):
    with pytest.raises(ConfigError, match="policy.model"):
        KINDS[kind](PolicyConfig(kind=kind, api_key_env="TEST_KEY"))


def test_retry_after_reads_seconds_milliseconds_and_dates():
    class Failed(Exception):
        def __init__(self, headers):
            self.response = type("Response", (), {"headers": headers})

    assert retry_after_s(Failed({"retry-after": "3.5"}), 0.0) == 3.5
    assert retry_after_s(Failed({"retry-after-ms": "250"}), 0.0) == 0.25
    date = {"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}
    assert retry_after_s(Failed(date), 20.0) == 40.0
    assert retry_after_s(Failed({"retry-after": "soon"}), 0.0) is None
    assert retry_after_s(Failed({"retry-after": "nan"}), 0.0) is None
    assert retry_after_s(ValueError("no response"), 0.0) is None


def test_waits_are_bounded():
    backoff = Backoff(first_s=1.0, max_s=10.0, retry_after_max_s=30.0)
    rng = random.Random(0)
    assert all(5.0 <= backoff.wait_s(20, None, rng) <= 10.0 for _ in range(50))
    waits = {backoff.wait_s(1, 1e9, rng) for _ in range(50)}
    assert 30.0 <= min(waits) < max(waits) <= 33.0  # they do not all come back at once


def test_public_url_hides_credentials():
    url = "https://me:secret@host:8000/v1?api_key=secret#x"
    assert public_url(url) == "https://host:8000/v1"


def test_a_server_that_trickles_times_out(kind):
    """Every byte comes in time, the answer never does."""
    with LoopbackServer([Reply("x" * 400, trickle_s=0.05)]) as server:
        policy = make_policy(kind, server, timeout_s=0.2, max_retries=1)
        started = time.monotonic()
        answer = policy.complete([make_request()])[0]
        took = time.monotonic() - started
        policy.close()
    assert "timed out" in answer.error and answer.tries == 2 and answer.outage
    assert took < 10.0  # a whole answer takes 20 s and more


def test_many_are_in_flight_and_never_more_than_asked(kind):
    together = threading.Barrier(40)

    def script(received):
        together.wait(timeout=20)  # breaks unless 40 requests are there at once
        return Reply("ok")

    with LoopbackServer(script) as server:
        policy = make_policy(kind, server, concurrency=40)
        answers = policy.complete([make_request(episode=e) for e in range(80)])
        policy.close()
    assert {a.text for a in answers} == {"ok"} and not together.broken

    running, most = set(), []

    def count(received):
        running.add(threading.get_ident())
        most.append(len(running))
        time.sleep(0.005)
        running.discard(threading.get_ident())
        return Reply("ok")

    with LoopbackServer(count) as server:
        policy = make_policy(kind, server, concurrency=3)
        policy.complete([make_request(episode=e) for e in range(20)])
        policy.close()
    assert max(most) <= 3


def test_what_does_not_pass_by_waiting_is_not_repeated(kind):
    quota = json.dumps({"error": {"code": "insufficient_quota", "message": "no money"}}).encode()
    final = [
        Reply(status=503, headers={"x-should-retry": "false"}),
        Reply(status=401),
    ]
    if kind == "openai":
        final.append(Reply(status=429, body=quota))
    for reply in final:
        with LoopbackServer([reply]) as server:
            answer = make_policy(kind, server).complete([make_request()])[0]
        assert len(server.received) == 1 and answer.outage and answer.tries == 1
    with LoopbackServer(
        [Reply(status=418, headers={"x-should-retry": "true"}), Reply("ok")]
    ) as server:
        assert make_policy(kind, server).complete([make_request()])[0].text == "ok"


def test_a_bug_of_ours_is_raised_and_ends_the_other_calls(kind, monkeypatch):
    with LoopbackServer([Reply(hang=True)]) as server:
        policy = make_policy(kind, server)

        async def broken(request, model):
            if request.key.episode == 1:
                raise KeyError("bug")
            await asyncio.sleep(60)

        monkeypatch.setattr(policy, "_ask", broken)
        with pytest.raises(KeyError, match="bug"):
            policy.complete([make_request(episode=e) for e in range(3)])
        policy.close()
        policy.close()


PRICES = {
    "base-model": {"input": 2.0, "output": 10.0, "cached_input": 0.5},
    "tuned": {"input": 4.0, "output": 20.0},
}


def test_tokens_and_money_are_counted_by_model(kind, tmp_path):
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(PRICES))
    settings = {"prices": str(path), "adapter_model": "tuned", "max_retries": 1}
    bad = Reply(status=500)
    script = [Reply("a", prompt_tokens=1_000_000, completion_tokens=100_000), bad, Reply("b"), bad]
    with LoopbackServer(script) as server:
        policy = make_policy(kind, server, **settings)
        answers = [policy.complete([make_request()])[0] for _ in range(3)]
        policy.complete([make_request("memory")])
        policy.close()
    assert [a.cost_usd for a in answers] == [3.0, pytest.approx(92e-6), None]
    assert policy.usage["base-model"] == ModelUsage(
        calls=3,
        retries=2,
        failed=1,
        prompt_tokens=1_000_011,
        completion_tokens=100_007,
        cost_usd=pytest.approx(3.000092),
    )
    assert policy.usage["tuned"] == ModelUsage(calls=1, retries=1, failed=1, cost_usd=0.0)


def test_cached_and_written_tokens_have_their_own_price(tmp_path):
    path = tmp_path / "prices.json"
    row = {"input": 10.0, "output": 0.0, "cached_input": 1.0, "cache_write": 12.0}
    path.write_text(json.dumps({"base-model": row}))
    openai = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 125}
    openai["prompt_tokens_details"] = {"cached_tokens": 60}
    message = {"role": "assistant", "content": "x"}
    body = {"choices": [{"index": 0, "message": message}], "usage": openai}
    with LoopbackServer([Reply(body=json.dumps(body).encode())]) as server:
        answer = make_policy("openai", server, prices=str(path)).complete([make_request()])[0]
    assert answer.cost_usd == pytest.approx((40 * 10 + 60) / 1e6)
    # the rest of the total is thinking, which is paid for
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (100, 60, 25)
    usage = {"input_tokens": 10, "output_tokens": 5}
    usage |= {"cache_read_input_tokens": 60, "cache_creation_input_tokens": 30}
    body = {"type": "message", "content": [{"type": "text", "text": "x"}], "usage": usage}
    with LoopbackServer([Reply(body=json.dumps(body).encode())]) as server:
        answer = make_policy("anthropic", server, prices=str(path)).complete([make_request()])[0]
    assert answer.cost_usd == pytest.approx((10 * 10 + 60 + 30 * 12) / 1e6)
    assert (answer.prompt_tokens, answer.cached_tokens) == (100, 60)


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "must hold an object"),
        ('{"other": {"input": 1, "output": 1}}', "no price of model 'base-model'"),
        ('{"base-model": {"input": 1}}', "give input and output"),
        ('{"base-model": {"input": 1, "output": "x"}}', "'x' is no price"),
        ('{"base-model": {"input": 1, "output": 1, "outptu": 1}}', "did you mean 'output'"),
    ],
)
def test_a_price_table_that_says_nothing_of_use_is_refused_at_once(kind, tmp_path, text, said):
    path = tmp_path / "prices.json"
    if text is not None:
        path.write_text(text)
    config = PolicyConfig(kind=kind, model="base-model", api_key_env="TEST_KEY", prices=str(path))
    with pytest.raises(ConfigError, match=said):
        KINDS[kind](config)


def gemini(received):
    """Refuses what Google's compatible endpoint does, in its words."""
    unknown = [
        n for n in ("seed", "include_stop_str_in_output", "no_stop_trim") if n in received.body
    ]
    if not unknown:
        return Reply("fine")
    said = "".join(
        f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.\n'
        for name in unknown
    )
    error = {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}
    return Reply(status=400, body=json.dumps([{"error": error}]).encode())


def test_fields_that_gemini_does_not_know_are_left_out_from_then_on(capsys):
    with LoopbackServer(gemini) as server:
        policy = make_policy("openai", server, adapter_model="tuned")
        requests = [make_request(episode=e, stop=("<|END|>",)) for e in range(4)]
        assert [a.text for a in policy.complete(requests)] == ["fine"] * 4
        before = len(server.received)
        answers = policy.complete(requests)
        assert len(server.received) == before + 4  # learnt: none is refused again
        policy.close()
    assert {(a.text, a.tries) for a in answers} == {("fine", 1)}
    body = server.received[-1].body
    assert body["temperature"] == 1.0 and body["stop"] == ["<|END|>"] and "seed" not in body
    assert capsys.readouterr().err.count("takes no seed") == 1


def test_a_setting_that_shapes_the_answer_is_never_left_out():
    """top_p of 1 may go, as TGI wants it; another top_p may not."""
    refusal = Reply("`top_p` must be > 0.0 and < 1.0", status=422)
    with LoopbackServer(lambda r: refusal if "top_p" in r.body else Reply("ok")) as server:
        assert make_policy("openai", server).complete([make_request()])[0].text == "ok"
    with LoopbackServer([refusal]) as server:
        answer = make_policy("openai", server).complete([make_request(top_p=0.5)])[0]
    assert answer.finish_reason == "error" and "top_p" in answer.error and len(server.received) == 1


def test_max_tokens_takes_its_newer_name_where_the_server_asks_for_it():
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    refusal = Reply(said, status=400)
    with LoopbackServer(lambda r: refusal if "max_tokens" in r.body else Reply("ok")) as server:
        assert make_policy("openai", server).complete([make_request()])[0].text == "ok"
    assert server.received[-1].body["max_completion_tokens"] == 32
    overlong = Reply("max_tokens is too large: 32; the context has room for 7", status=400)
    with LoopbackServer([overlong]) as server:
        answer = make_policy("openai", server).complete([make_request()])[0]
    assert answer.finish_reason == "error" and not answer.outage and len(server.received) == 1


def test_googles_wait_is_read_from_the_body():
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
    body = json.dumps([{"error": {"code": 429, "message": "quota", "details": details}}]).encode()
    waits = []
    with LoopbackServer([Reply(status=429, body=body), Reply("ok")]) as server:
        make_policy("openai", server, waits).complete([make_request()])
    assert 17.5 <= waits[0] <= 17.5 * (1 + RETRY_AFTER_JITTER)


def test_thinking_that_used_up_the_answer_is_no_garbage():
    body = {"choices": [{"index": 0, "message": {"role": "assistant"}, "finish_reason": "length"}]}
    withheld = {"choices": [dict(body["choices"][0], finish_reason="content_filter: RECITATION")]}
    with LoopbackServer([Reply(body=json.dumps(b).encode()) for b in (body, withheld)]) as server:
        policy = make_policy("openai", server)
        first, second = (policy.complete([make_request()])[0] for _ in range(2))
    assert (first.text, first.finish_reason) == ("", "length")
    assert second.finish_reason == "error" and "RECITATION" in second.error
