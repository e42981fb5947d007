"""API policies against a real HTTP server on loopback."""

import logging
import random
import traceback

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from automem_jax.config import ConfigError, PolicyConfig
from automem_jax.policies.anthropic import AnthropicPolicy
from automem_jax.policies.endpoint import public_url, request_seed
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.policies.openai import OpenAIPolicy
from automem_jax.policies.retry import Backoff, EndpointError, Retrier, retry_after_s
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
    assert waits == [7.0]
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
        Reply(body=b"x", headers={"Content-Encoding": "gzip"}),
    ],
    ids=["html", "torn", "nonsense", "list", "null", "empty", "wrong-kind", "reset", "gzip"],
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
    assert answer.finish_reason == "error" and "APITimeoutError" in answer.error


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

    def call():
        raise APIStatusError("x" * 290 + SECRET)

    retrier = Retrier(Backoff(max_retries=0), secrets=(SECRET,))
    with pytest.raises(EndpointError) as caught:
        retrier.call(call, f"server {SECRET}")
    assert caught.value.__context__ is None and caught.value.__cause__ is None
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET[:8] not in text


def test_our_own_bugs_are_not_retried():
    calls = []

    def call():
        calls.append(1)
        raise KeyError("bug")

    with pytest.raises(KeyError):
        Retrier(Backoff(), sleep=calls.append).call(call, "x")
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
    assert backoff.wait_s(1, 1e9, rng) == 30.0


def test_public_url_hides_credentials():
    url = "https://me:secret@host:8000/v1?api_key=secret#x"
    assert public_url(url) == "https://host:8000/v1"
