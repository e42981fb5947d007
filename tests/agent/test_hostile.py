"""Whatever a model writes, the agent goes on: store intact, answer readable and bounded, time bounded."""

import json
import re
import time

import pytest

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.memory import replay
from automem_jax.agent.template import from_data, load_template, to_data
from automem_jax.testing import ToyEnv
from automem_jax.text.messages import Completion, SamplingSettings
from automem_jax.traces.store import TraceWriter, read_trace

FORWARD = "<|ACTION|>forward<|END|>"
MEGABYTE = 10**6
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def template():
    data = to_data(load_template("memento_v0"))
    data["actions"]["fallback"] = "forward"
    data["files"]["map"] = {"kind": "map", "key": ["x", "y"]}
    data["files"]["goals"] = {"kind": "checklist", "items": [{"id": "bed", "label": "sleep"}]}
    data["new_files"] = {"allow": True, "max": 2}
    data["limits"] |= {"file_bytes": 4_000, "total_bytes": 9_000}
    data["limits"] |= {"phase_tokens": 4_096, "turn_ops": 32, "read_chars": 2_000}
    for phase in ("log", "plan"):
        data["phases"][phase]["ops"] = ["READ", "SEARCH", "TAIL", "COUNT"] + (
            ["APPEND", "WRITE", "CREATE", "UPSERT", "CHECK", "DELETE"] if phase == "log" else []
        )
    data["files"]["notes"]["ops"] = [
        op for op in data["phases"]["log"]["ops"] if op not in ("UPSERT", "CHECK")
    ]
    return from_data(data)


TEMPLATE = template()


def play(log_reply, plan_reply=FORWARD, two_model=False):
    """Two steps; the second's first LOG and PLAN replies are the hostile ones."""
    env = ToyEnv()
    agent = Agent(
        TEMPLATE,
        SamplingSettings(),
        episode=1,
        two_model=two_model,
        instructions=env.instructions,
    )
    percept, records, requests = env.reset([0], [1])[0], [], []
    for _ in range(2):
        out = agent.observe(percept)
        while not isinstance(out, Decision):
            requests.append(out)
            first = out.key.step == 1 and out.key.turn == 0
            usual = "<|DONE|>" if out.key.phase == "log" else FORWARD
            hostile = log_reply if out.key.phase == "log" else plan_reply
            out = agent.receive(Completion(hostile if first else usual))
        records.append(out.record)
        percept = env.step({0: out.action})[0]
    return agent, records, requests, agent.end_record(percept)


def check(tmp_path, agent, records, requests, end):
    """What must hold after any reply."""
    store = agent.store.snapshot()
    assert replay([c for record in records for c in record["memory"]]) == store
    lines = [line for own in store.values() for _, line in own]
    assert sum(len(line.encode()) + 1 for line in lines) <= TEMPLATE.limits.total_bytes
    assert not any("\n" in line or UNSAFE.search(line) for line in lines)
    assert all(re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*", name) and ".." not in name for name in store)
    for request in requests:
        size = sum(len(m.content.encode("utf-8", "replace")) for m in request.messages)
        assert size <= 4 * 4_096, "a prompt stays bounded"
    for record in records:
        for phase in record["phases"]:
            for turn in phase["turns"]:
                told = [o["answer"] for o in turn["operations"]] + turn["errors"]
                assert all(len(text) <= 9_000 for text in told)
                assert not any(UNSAFE.search(text) for text in told)
    header = {"env": "toy", "task": "t", "seed": 1, "instructions": "go"}
    with TraceWriter(tmp_path, "hostile", header) as writer:
        for record in records:
            writer.step(record)
        path = writer.end(end)
    for line in path.read_bytes().splitlines():
        json.loads(line)
    again = read_trace(path)
    assert (
        again.steps[1].phases[0].turns[0].completion.text
        == (records[1]["phases"][0]["turns"][0]["completion"]["text"])
    )
    assert records[-1]["action"] == "forward"


HOSTILE = {
    "ten_thousand": "<|APPEND|>notes|x<|END|>" * 10_000,
    "ten_thousand_open": "<|APPEND|>notes|x" * 10_000,
    "ten_thousand_reads": "<|READ|>notes<|END|>" * 10_000,
    "nested": "<|APPEND|>notes|" * 5_000 + "<|END|>" * 5_000,
    "half": "<|APPEND" * 10_000 + "<|" * 10_000,
    "backtracking": "<|" + "A " * 50_000 + "|>" + "<    A" * 50_000,
    "unknown": "".join(f"<|OP{i}|>x<|END|>" for i in range(10_000)),
    "nul": "<|APPEND|>notes|a\x00b<|END|><|CREATE|>n\x00te|x<|END|><|READ|>\x00<|END|>",
    "above": "<|CREATE|>../../etc/passwd|x<|END|><|READ|>/../secret<|END|><|APPEND|>..|x<|END|>",
    "control": "<|APPEND|>notes|\x1b[2J\x07bell\x08\x9b31m\x7f<|END|>",
    "surrogates": "<|APPEND|>notes|\udfff x \ud800<|END|><|CREATE|>\ud800|x<|END|>\udc80",
    "right_to_left": "<|APPEND|>notes|\u202etxt.exe\u2066<|END|><|CREATE|>a\u202eb|x<|END|>",
    "huge_number": f"<|TAIL|>notes|{'9' * 5_000}<|END|><|TAIL|>notes|-1<|END|><|TAIL|>notes|1e9<|END|>",
    "other_digits": "<|TAIL|>notes|\u0663<|END|><|TAIL|>notes|\u00b2<|END|>",
    "homoglyph": "<|RE\u0410D|>notes<|END|><|READ|>n\u043etes<|END|><|READ|>\uff4e\uff4ftes<|END|>",
    "long_name": f"<|CREATE|>{'n' * 100_000}|x<|END|><|CREATE|>{'é/' * 5_000}|x<|END|>",
    "keys": f"<|UPSERT|>map|{'1,' * 50_000}|x<|END|><|UPSERT|>map|1,2|{'a' + chr(10)}{'b' * 9_000}<|END|>",
    "items": f"<|CHECK|>goals|{'bed' * 50_000}<|END|><|CHECK|>goals|<|END|>",
    "query": f"<|SEARCH|>notes|{'w ' * 100_000}<|END|><|COUNT|>notes|{'w' * 100_000}<|END|>",
    "lines": "<|APPEND|>notes|" + "\n" * 3_000 + "\r\x0b\x0c\x1c\x85\u2028" * 100 + "<|END|>",
    "many_lines": "<|WRITE|>notes|" + "y\n" * 100_000 + "<|END|>",
    "delete_all": "<|DELETE|>notes<|END|><|DELETE|>map<|END|><|DELETE|>goals<|END|>",
    "action": "<|ACTION|>" + "north\n" * 50_000 + "<|ACTION|>" + "z" * 100_000,
    "fences": "```" * 30_000 + "<|READ|>notes" + "```\n" * 30_000,
    "done": "<|DONE|>" * 10_000,
    "empty": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_replies(name, tmp_path):
    started = time.process_time()
    played = play(HOSTILE[name], HOSTILE[name] + FORWARD)
    check(tmp_path, *played)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("name", ["ten_thousand", "above", "surrogates", "action", "empty"])
def test_hostile_specialist(name, tmp_path):
    check(tmp_path, *play(HOSTILE[name], HOSTILE[name], two_model=True))


def test_a_hundred_megabytes_in_one_operation(tmp_path):
    reply = "<|APPEND|>notes|" + "x" * (100 * MEGABYTE) + "<|END|>"
    started = time.process_time()
    agent, records, requests, end = play(reply)
    (operation,) = records[1]["phases"][0]["turns"][0]["operations"]
    assert not operation["ok"] and operation["end"] == len(reply)
    assert operation["answer"] == "error: APPEND: the text exceeds 4000 bytes; shorten it"
    assert agent.store.snapshot()["notes"] == ()
    check(tmp_path, agent, records, requests, end)
    assert time.process_time() - started < 60


def test_ten_thousand_operations_are_counted_not_dropped_in_silence():
    _, records, requests, _ = play(HOSTILE["ten_thousand"])
    turn = records[1]["phases"][0]["turns"][0]
    limit = TEMPLATE.limits.turn_ops
    assert len(turn["operations"]) == limit
    wanted = f"only {limit} operations a reply are executed; {10_000 - limit} were not"
    assert wanted in turn["errors"]
    following = next(r for r in requests if r.key.step == 1 and r.key.turn == 1)
    assert wanted in following.messages[-1].content


def test_braces_are_text_wherever_they_come_back():
    secret = "{percept.long_text} {percept.step} {notes} %s {0} ${x} {{7*7}}"
    _, records, requests, _ = play(
        f"<|APPEND|>notes|{secret}<|END|>", "<|READ|>notes<|END|>" + FORWARD
    )
    (read,) = records[1]["phases"][1]["turns"][0]["operations"]
    assert read["answer"] == f"READ notes:\n{secret}"
    assert secret in requests[-1].messages[-1].content


def test_look_alikes_are_told_apart_and_one_spelling_is_one_file():
    agent, records, _, _ = play(
        "<|APPEND|>ｎｏｔｅｓ|one<|END|><|APPEND|>NOTES|two<|END|><|READ|>n\u043etes<|END|>"
        "<|APPEND|>notes|cafe\u0301<|END|><|SEARCH|>notes|caf\u00e9<|END|><|RE\u0410D|>notes<|END|>"
    )
    turn = records[1]["phases"][0]["turns"][0]
    assert [line for _, line in agent.store.lines("notes")] == ["one", "two", "caf\u00e9"]
    assert "no such file; did you mean notes?" in turn["operations"][2]["answer"]
    assert turn["operations"][4]["read"] == [3]
    assert turn["errors"] == ["RE\u0410D: no such operation; did you mean READ?"]
