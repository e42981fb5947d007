"""The embedded model behind the API: what clients read is what the engine draws, and nothing leaks."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

import jax.numpy as jnp
import openai
from models.test_lora import random_adapter
from serve.running import metrics, serving, wait_for

from automem_jax.config import PolicyConfig
from automem_jax.live.status import read_status
from automem_jax.models.weights import load_model
from automem_jax.policies.openai import OpenAIPolicy
from automem_jax.sampling.engine import Engine
from automem_jax.serve.app import ChatApp
from automem_jax.text.messages import Message, Request, RequestKey, SamplingSettings
from automem_jax.text.tokenizer import load_tokenizer

CLIENTS, ABORTING = 200, 20
CONTEXT = 192


@pytest.fixture(autouse=True, scope="module")
def no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def app():
    model = load_model("embedded", jnp.float32)[0]
    tokenizer = load_tokenizer("embedded")
    engine = Engine(
        model,
        tokenizer,
        slots=16,
        max_context=CONTEXT,
        adapters={"notes": random_adapter(model, 3)},
    )
    return ChatApp(engine, tokenizer, model="embedded", max_context=CONTEXT)


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url:
        yield url


def body(number, **more):
    """The request of one client: its own question behind what all have in common."""
    common = "You explore a dungeon. Write down what you see. " * 2
    messages = [
        {"role": "system", "content": common},
        {
            "role": "user",
            "content": f"step {number}: a door to the {'north' if number % 3 else 'east'}",
        },
    ]
    adapter = number % 4 == 3
    fields = {"model": "notes" if adapter else "embedded", "messages": messages, "seed": number}
    return fields | {"max_tokens": 12, "temperature": 1.0} | more


def client(url, **settings):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120, **settings)


def blocks_used(url):
    return metrics(url)["automem_engine_blocks_used"]


def test_two_hundred_clients_of_which_twenty_go_away(app, url):
    aborting = set(range(0, CLIENTS, CLIENTS // ABORTING))
    alone = {}
    with client(url) as session:
        for number in sorted(set(range(CLIENTS)) - aborting)[::8]:  # asked one after the other
            answer = session.chat.completions.create(**body(number))
            alone[number] = answer.choices[0].message.content

    async def everybody():
        async with openai.AsyncOpenAI(
            base_url=url, api_key="none", max_retries=0, timeout=120
        ) as session:
            return await asyncio.gather(*(one(session, number) for number in range(CLIENTS)))

    async def one(session, number):
        create = session.chat.completions.create
        if number in aborting:
            fields = body(number, model="embedded", temperature=2.0, max_tokens=90)
            stream = await create(**fields, stream=True)
            async for _ in stream:
                break
            await stream.close()
            return None
        if number % 2:
            answer = await create(**body(number))
            return answer.choices[0].message.content
        chunks = await create(**body(number), stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in chunks])

    before = metrics(url)
    together = asyncio.run(everybody())
    assert {number: together[number] for number in alone} == alone
    assert len({text for text in together if text}) > CLIENTS // 10
    wait_for(lambda: metrics(url)["automem_http_requests_in_flight"] == 0)
    wait_for(lambda: blocks_used(url) == 0)
    after = metrics(url)
    assert after["automem_engine_cancelled_total"] - before["automem_engine_cancelled_total"] > 10
    assert after["automem_engine_queued"] == after["automem_engine_running"] == 0
    blocks = {n: after[f"automem_engine_blocks_{n}"] for n in ("free", "cached", "used", "total")}
    assert blocks["free"] + blocks["cached"] == blocks["total"]
    assert after["automem_engine_reused_tokens_total"] > 0
    again = client(url).chat.completions.create(**body(1))
    assert again.choices[0].message.content == together[1]


def test_seed_stream_and_log_probabilities_agree(url):
    fields = body(5, logprobs=True, top_logprobs=3)
    first, second = (client(url).chat.completions.create(**fields) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    entries = first.choices[0].logprobs.content
    assert entries == second.choices[0].logprobs.content
    assert "".join(e.token for e in entries).strip() == first.choices[0].message.content.strip()
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        best = entry.top_logprobs[0].logprob
        assert best >= max(t.logprob for t in entry.top_logprobs) and best > entry.logprob - 1e-5
    streamed = [
        entry
        for chunk in client(url).chat.completions.create(**fields, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == entries
    others = {
        client(url)
        .chat.completions.create(**body(3, temperature=2.0) | {"seed": seed})
        .choices[0]
        .message.content
        for seed in range(6)
    }
    assert len(others) > 1
    greedy = {
        client(url)
        .chat.completions.create(**body(5, temperature=0) | {"seed": s})
        .choices[0]
        .message.content
        for s in range(3)
    }
    assert len(greedy) == 1


def test_a_rollouts_policy_reads_stop_strings_and_adapters_over_the_wire(url):
    """Our own policy against our own server: the stop string is there, memory goes to the adapter."""
    config = PolicyConfig(
        kind="openai", base_url=url, model="embedded", adapter_model="notes", concurrency=32
    )
    policy = OpenAIPolicy(config)

    def request(number, role):
        messages = (Message("system", "You take notes."), Message("user", f"log {number % 4}"))
        settings = SamplingSettings(max_tokens=16, stop=("e", "<|END|>"))
        return Request(role, messages, settings, RequestKey(number, 0, "log", 0))

    asked = [request(n, role) for n in range(16) for role in ("memory", "gameplay")]
    answers = policy.complete(asked)
    again = policy.complete(asked[::-1])[::-1]
    policy.close()
    assert answers == again or [a.text for a in answers] == [a.text for a in again]
    assert {a.finish_reason for a in answers} <= {"stop", "stop_string", "length"}
    stopped = [a for a in answers if a.finish_reason == "stop_string"]
    assert stopped and all(a.text.endswith(("e", "<|END|>")) for a in stopped)
    assert all("e" not in a.text[:-1] for a in answers)
    assert all(a.prompt_tokens > 0 and a.completion_tokens > 0 for a in answers)
    assert policy.usage["notes"].calls == policy.usage["embedded"].calls == 32
    pairs = zip(answers[::2], answers[1::2], strict=True)
    assert any(memory.text != base.text for memory, base in pairs)
    assert blocks_used(url) == 0


def automem_serve(tmp_path, *more, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.Popen(
        [sys.executable, "-m", "automem_jax", "serve", f"--workdir={tmp_path}", "--port=0"]
        + ["--config.model.slots=4", "--config.model.max_context=128", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | environment,
    )


def test_the_command_serves_and_ends_when_told(tmp_path):
    process = automem_serve(tmp_path, AUTOMEM_API_KEY="sk-command-0123")
    try:
        line = process.stdout.readline()
        assert line.startswith("serving embedded at http://127.0.0.1:"), process.communicate()
        address = line.split()[-1]
        session = openai.OpenAI(
            base_url=address, api_key="sk-command-0123", max_retries=0, timeout=60
        )
        answer = session.chat.completions.create(
            model="embedded", messages=[{"role": "user", "content": "hello"}], max_tokens=4
        )
        assert 0 < answer.usage.completion_tokens <= 4
        during = read_status(tmp_path)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        after = read_status(tmp_path)
        assert (during["state"], during["stage"]) == ("running", "serve")
        assert after["state"] == "done" and after["runs"][0]["figures"]["answered"] == 1
        assert process.returncode == 0 and "Traceback" not in errors
        assert "sk-command" not in line + output + errors
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "more, said",
    [
        (["--host=0.0.0.0"], "export a key for clients in AUTOMEM_API_KEY"),
        (["--adapters=lineage"], "does not exist"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, more, said):
    process = automem_serve(tmp_path, *more)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and said in errors and errors.count("\n") == 1
