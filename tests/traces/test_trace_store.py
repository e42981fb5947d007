"""Traces: written, read back, torn, corrupt."""

import json
import tempfile
from os.path import commonprefix

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.memory import replay
from automem_jax.agent.template import load_template
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.messages import Completion, SamplingSettings
from automem_jax.traces.compact import RecordPacker, RecordUnpacker
from automem_jax.traces.schema import TraceError
from automem_jax.traces.store import TraceWriter, iter_traces, list_traces, read_trace


def answer(request):
    if request.key.phase == "log":
        return "<|APPEND|>notes|caf\u00e9 \ud800 \u2028 x<|END|><|DONE|>"
    if request.key.turn == 0:
        return Completion("<|READ|>notes<|END|>", (1, 2), (-0.123456, float("-inf")))
    return "<|ACTION|>forward<|END|>"


def record_episode(directory, name="ep-42", finish=True, writer=TraceWriter):
    env, policy = ToyEnv(), ScriptedPolicy(answer)
    agent = Agent(
        load_template("memento_v0"),
        SamplingSettings(),
        episode=42,
        two_model=True,
        instructions=env.instructions,
    )
    percept = env.reset([0], [42])[0]
    with writer(directory, name, {"seed": 42, "arm": "base"}) as writer:
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
    assert trace.episode == "ep-42" and trace.header["schema"] == 2 and trace.end["steps"] == 3
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
            lambda line: line.replace(b'"schema":2', b'"schema":9'),
            r":1: trace schema 9, .* reads 1, 2",
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


def unpack(packed):
    """As a reader does: each record through JSON, in order."""
    unpacker = RecordUnpacker()
    return [unpacker.unpack(json.loads(json.dumps(record))) for record in packed]


MAP = "\n".join(f"row {i}: " + "#." * 30 for i in range(20))


def full_step(t, answer="", observation="you see a door to the north of you", lines=(), read=()):
    reply = "<|READ|>notes<|END|><|APPEND|>notes|the door to the north is locked<|END|>"
    operation = {"op": "READ", "args": ["notes"], "file": "notes", "start": 0, "end": 20}
    operation |= {"ok": True, "answer": answer, "error": None, "wrote": [], "read": list(read)}
    completion = {"text": reply, "token_ids": [1], "logprobs": [-0.5], "finish_reason": "stop"}
    completion |= {"prompt_tokens": 9, "completion_tokens": 1, "error": None}
    turn = {"role": "memory", "prompt": [], "completion": completion}
    turn |= {"action": None, "done": False, "stripped_action": None, "rejected": None, "errors": []}
    first = [{"role": "system", "text": "rules " * 50}]
    first.append({"role": "user", "text": f"see:\n{observation}\n{MAP}\nplan {t}"})
    more = [{"role": "assistant", "text": reply}, {"role": "user", "text": answer or "-"}]
    turns = [
        turn | {"prompt": first, "operations": [operation | {"redundant": False, "empty": False}]},
        turn | {"prompt": more, "operations": [], "action": "north"},
    ]
    percept = {"long_text": f"{observation}\n{MAP}\n", "short_text": "hp 9", "reward": 0.5}
    percept |= {"done": False, "progression": 0.0, "end_reason": None, "action": None}
    percept |= {"unknown_action": None, "failed": False, "map": MAP}
    shown = {"notes": [[n, n] for n, _ in lines]} if lines else {}
    insert = {"op": "insert", "file": "notes", "at": 0, "lines": [list(line) for line in lines]}
    return {
        "type": "step",
        "t": t,
        "percept": percept,
        "phases": [{"phase": "plan", "shown": shown, "cuts": [], "turns": turns}],
        "memory": [insert] if lines else [{"op": "create", "file": "notes"}],
        "action": "north",
        "action_source": "model",
        "proposed": "north",
        "errors": [],
    }


def test_packed_records_come_back_whole():
    door = "the door to the north is locked"
    steps = [
        full_step(0, "READ notes: empty"),
        full_step(1, f"READ notes:\n{door}", lines=[(5, door)], read=[5]),
        full_step(2, f"READ notes:\n{door}", lines=[(7, "b" * 30), (9, "c" * 30)], read=[5]),
        full_step(3, f"READ notes:\n{'b' * 30}\n{'c' * 30}", "you see a wall", read=[7, 9]),
        *(full_step(t) for t in range(4, 90)),
    ]
    packer = RecordPacker()
    packed = [packer.pack(step) for step in steps]
    assert unpack(packed) == steps
    sizes = [len(json.dumps(record)) for record in packed]
    assert sizes[0] > 1500 and max(sizes[4:]) < 900  # the map, the rules and the reply stand once
    assert packed[0]["percept"]["long_text"].endswith(MAP + "\n")
    assert packed[0]["percept"]["map"] == [[1, 35, len(MAP)]]
    assert door not in json.dumps(packed[1]["memory"])  # it stands in the reply


def test_a_text_that_nothing_refers_to_is_forgotten_on_both_sides():
    packer = RecordPacker()
    steps = [full_step(t, f"answer number {t} is longer than a reference") for t in range(40)]
    packed = [packer.pack(step) for step in steps]
    assert unpack(packed) == steps
    assert len(packer._texts.known.texts) < 60
    with pytest.raises(ValueError, match="which is not known"):
        RecordUnpacker().unpack(packed[-1])


TEXTS = st.lists(st.text(alphabet="ab\n", max_size=90) | st.sampled_from([MAP, MAP[7:300]]))


@given(TEXTS)
def test_any_texts_come_back(texts):
    steps = [full_step(t, answer=text, observation=text) for t, text in enumerate(texts)]
    packer = RecordPacker()
    assert unpack([packer.pack(step) for step in steps]) == steps


def test_traces_of_the_first_schema_can_still_be_read(tmp_path):
    requests, _ = record_episode(tmp_path)
    new = read_trace(tmp_path / "ep-42.jsonl")
    prompts = [
        [[m.content for m in turn.messages] for turn in phase.turns]
        for step in new.steps
        for phase in step.phases
    ]
    records = [{"type": "header", "schema": 1, "episode": "ep-42"}]
    before = {}
    for t, step in enumerate(steps_in_full(requests)):
        for phase in step["phases"]:
            base = before.get(phase["phase"], ["", ""])
            first = phase["turns"][0]["prompt"]
            before[phase["phase"]] = [m["text"] for m in first]
            for i, message in enumerate(first):
                keep = len(commonprefix([base[i], message["text"]]))
                message["keep"], message["text"] = keep, message["text"][keep:]
        records.append(step | {"t": t})
    path = tmp_path / "old.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    old = read_trace(path)
    assert [
        [[m.content for m in turn.messages] for turn in phase.turns]
        for step in old.steps
        for phase in step.phases
    ] == prompts
    assert [s.percept for s in old.steps] == [s.percept for s in new.steps]


def steps_in_full(requests):
    """The records of an episode as the agent made them."""
    kept = []

    class Keeping(TraceWriter):
        def step(self, record):
            kept.append(json.loads(json.dumps(record)))
            super().step(record)

    with tempfile.TemporaryDirectory() as directory:
        record_episode(directory, writer=Keeping)
    for record in kept:
        for phase in record["phases"]:
            del phase["cuts"]
            for turn in phase["turns"]:
                del turn["rejected"]
    return kept


def test_reading_can_stop_at_a_step(tmp_path):
    with TraceWriter(tmp_path, "e", {"seed": 1}) as writer:
        for t in range(5):
            writer.step(_plain_step(t))
        path = writer.end({"type": "end", "progression": 0.0, "steps": 5, "percept": None})
    whole, part = read_trace(path), read_trace(path, last_step=2)
    assert part.steps == whole.steps[:3] and part.end is None and part.header == whole.header
    assert read_trace(path, last_step=4).steps == whole.steps
    assert read_trace(path, last_step=99) == whole


def _plain_step(t):
    percept = {
        "long_text": f"a place that is described at some length, number {t}",
        "short_text": "",
    }
    return {
        "type": "step",
        "t": t,
        "percept": percept,
        "phases": [],
        "memory": [],
        "action": "east",
        "action_source": "model",
        "proposed": "east",
        "errors": [],
    }
