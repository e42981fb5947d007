"""Traces: written, read back, torn, corrupt."""

import json

import pytest

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.memory import replay
from automem_jax.agent.template import load_template
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.messages import Completion, Message, SamplingSettings
from automem_jax.traces.prompts import PromptDecoder, PromptEncoder
from automem_jax.traces.schema import TraceError
from automem_jax.traces.store import TraceWriter, iter_traces, list_traces, read_trace


def answer(request):
    if request.key.phase == "log":
        return "<|APPEND|>notes|caf\u00e9 \ud800 \u2028 x<|END|><|DONE|>"
    if request.key.turn == 0:
        return Completion("<|READ|>notes<|END|>", (1, 2), (-0.123456, float("-inf")))
    return "<|ACTION|>forward<|END|>"


def record_episode(directory, name="ep-42", finish=True):
    env, policy = ToyEnv(), ScriptedPolicy(answer)
    agent = Agent(
        load_template("memento_v0"),
        SamplingSettings(),
        episode=42,
        two_model=True,
        instructions=env.instructions,
    )
    percept = env.reset([0], [42])[0]
    with TraceWriter(directory, name, {"seed": 42, "arm": "base"}) as writer:
        for _ in range(3):
            out = agent.observe(percept)
            while not isinstance(out, Decision):
                out = agent.receive(policy.complete([out])[0])
            writer.step(out.record)
            percept = env.step({0: out.action})[0]
        if finish:
            writer.end(agent.end_record(percept))
    return policy.requests, agent


def test_round_trip_rebuilds_every_prompt_and_the_memory(tmp_path):
    requests, agent = record_episode(tmp_path / "a")
    ((path, trace),) = iter_traces(tmp_path)
    assert path == tmp_path / "a" / "ep-42.jsonl"
    turns = [turn for step in trace.steps for phase in step.phases for turn in phase.turns]
    assert [t.messages for t in turns] == [r.messages for r in requests]
    assert [t.role for t in turns] == [r.role for r in requests]
    assert turns[0].completion.logprobs == (-0.1235, -1e4)
    assert turns[0].completion.token_ids == (1, 2)
    assert replay(trace.changes()) == agent.store.snapshot()
    assert replay(trace.changes(before=1)) == {"notes": ()}
    assert trace.episode == "ep-42" and trace.header["schema"] == 1 and trace.end["steps"] == 3
    assert [s.t for s in trace.steps] == [0, 1, 2]


def test_traces_are_reproducible_bytes(tmp_path):
    record_episode(tmp_path / "a")
    record_episode(tmp_path / "b")
    assert (tmp_path / "a/ep-42.jsonl").read_bytes() == (tmp_path / "b/ep-42.jsonl").read_bytes()


def test_an_unfinished_trace_is_not_listed_but_can_be_read(tmp_path):
    record_episode(tmp_path, finish=False)
    assert list_traces(tmp_path) == []
    trace = read_trace(tmp_path / "ep-42.jsonl.partial")
    assert trace.end is None and len(trace.steps) == 3


def test_a_torn_last_line_is_dropped(tmp_path):
    record_episode(tmp_path, finish=False)
    path = tmp_path / "ep-42.jsonl.partial"
    data = path.read_bytes()
    for cut in (1, 10, 400):
        path.write_bytes(data[:-cut])
        assert len(read_trace(path).steps) == (3 if cut == 1 else 2)


def edit_line(path, number, change):
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = change(lines[number - 1])
    path.write_bytes(b"\n".join(lines))


def without(key):
    def change(line):
        record = json.loads(line)
        del record[key]
        return json.dumps(record).encode()

    return change


@pytest.mark.parametrize(
    "number,change,message",
    [
        (2, lambda line: line[:-9], r"ep-42\.jsonl:2: not a JSON line .*run its stage again"),
        (3, without("percept"), r"ep-42\.jsonl:3: step record lacks 'percept'"),
        (3, lambda line: b'{"type":"stp"}', r":3: unknown record type 'stp'"),
        (3, lambda line: b"[]", r":3: expected a JSON object"),
        (1, without("type"), r":1: expected a header"),
        (
            1,
            lambda line: line.replace(b'"schema":1', b'"schema":9'),
            r":1: trace schema 9, .* reads 1",
        ),
        (5, lambda line: line + b"\n" + line, r":6: a record after the end record"),
    ],
)
def test_a_corrupt_line_is_named(tmp_path, number, change, message):
    record_episode(tmp_path)
    path = tmp_path / "ep-42.jsonl"
    edit_line(path, number, change)
    with pytest.raises(TraceError, match=message):
        read_trace(path)


def test_episode_ids_are_plain_names(tmp_path):
    for name in ("", "a/b", "../x", ".hidden"):
        with pytest.raises(ValueError, match="plain file name"):
            TraceWriter(tmp_path, name, {})


def test_prompt_deltas_keep_what_did_not_change():
    encoder, decoder = PromptEncoder(), PromptDecoder()
    first = (Message("system", "rules"), Message("user", "see: a\nplan"))
    second = (Message("system", "rules"), Message("user", "see: bb\nplan"))
    talk = (*second, Message("assistant", "x"), Message("user", "y"))
    deltas = [encoder.encode("plan", 0, first), encoder.encode("plan", 0, second)]
    deltas.append(encoder.encode("plan", 1, talk))
    assert deltas[1] == [
        {"role": "system", "keep": 5, "text": ""},
        {"role": "user", "keep": 5, "text": "bb\nplan"},
    ]
    assert deltas[2] == [{"role": "assistant", "text": "x"}, {"role": "user", "text": "y"}]
    rebuilt = [decoder.decode("plan", i, d) for i, d in zip((0, 0, 1), deltas, strict=True)]
    assert rebuilt == [first, second, talk]
    with pytest.raises(ValueError, match="does not continue"):
        encoder.encode("plan", 2, first)
