"""What is known to go wrong in agents of this kind, item by item; each test fails on that behaviour.

Items that are not the agent's are tested elsewhere: the paired gate and fresh seeds in
tests/architect/test_gate.py and tests/evaluation/test_statistics.py (9), which turns are supervised in
tests/training/test_data.py (11). Unmoved by clocks and cows, and maps by cursor, in more depth:
tests/agent/test_effects.py and tests/agent/test_navigation.py (7, 8).
"""

import dataclasses
import json
import os

import numpy as np
import pytest

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.effects import ObsDiff
from automem_jax.agent.observers import OBSERVERS
from automem_jax.agent.template import from_data, load_template, to_data
from automem_jax.agent.validate import validate
from automem_jax.config import ConfigError
from automem_jax.envs.base import Percept
from automem_jax.envs.grid import Grid, Terrain, Thing
from automem_jax.testing import ToyEnv
from automem_jax.text.messages import Completion, SamplingSettings
from automem_jax.traces.store import TraceWriter, read_trace

FORWARD = "<|ACTION|>forward<|END|>"


def template(**limits):
    data = to_data(load_template("memento_v0"))
    data["actions"]["fallback"] = "forward"
    data["files"]["notes"]["ops"] = ["READ", "APPEND", "WRITE", "TAIL"]
    data["files"]["map"] = {"kind": "map", "key": ["x", "y"]}
    data["new_files"] = {"allow": True, "max": 5}
    data["phases"]["log"]["ops"] = ["READ", "TAIL", "APPEND", "WRITE", "CREATE", "UPSERT"]
    data["phases"]["plan"]["ops"] = ["READ"]
    data["limits"] |= {"phase_tokens": 4_096, "turn_ops": 32, "total_bytes": 10**6} | limits
    data["limits"]["file_bytes"] = 10**6
    return from_data(data)


def play(replies, steps=2, use=None):
    """Plays; `replies` maps (step, phase, turn) to a text or a Completion."""
    env = ToyEnv()
    agent = Agent(
        use or template(),
        SamplingSettings(),
        episode=1,
        two_model=False,
        instructions=env.instructions,
    )
    percept, records, requests = env.reset([0], [1])[0], [], []
    for _ in range(steps):
        out = agent.observe(percept)
        while not isinstance(out, Decision):
            requests.append(out)
            usual = "<|DONE|>" if out.key.phase == "log" else FORWARD
            reply = replies.get((out.key.step, out.key.phase, out.key.turn), usual)
            out = agent.receive(reply if isinstance(reply, Completion) else Completion(reply))
        records.append(out.record)
        percept = env.step({0: out.action})[0]
        if percept.done:
            break
    return agent, records, requests, agent.end_record(percept)


def logged(reply):
    """The store's notes, the LOG turn's record and the next request after one LOG reply."""
    agent, records, requests, _ = play({(1, "log", 0): reply})
    turn = records[1]["phases"][0]["turns"][0]
    after = [r for r in requests if (r.key.step, r.key.phase, r.key.turn) == (1, "log", 1)]
    notes = [line for _, line in agent.store.lines("notes")]
    return notes, turn, after[0].messages[-1].content if after else ""


def test_1_operations_run_in_the_order_written():
    assert logged("<|WRITE|>notes|a<|END|><|APPEND|>notes|b<|END|>")[0] == ["a", "b"]
    assert logged("<|APPEND|>notes|b<|END|><|WRITE|>notes|a<|END|>")[0] == ["a"]
    turn = logged("<|READ|>notes<|END|><|APPEND|>notes|b<|END|><|READ|>notes<|END|>")[1]
    assert [o["empty"] for o in turn["operations"]] == [True, False, False]


def test_2_a_missing_end_swallows_nothing_and_mistakes_are_answered():
    notes, turn, _ = logged("<|APPEND|>notes|one\n<|APPEND|>notes|two")
    assert notes == ["one", "two"] and len(turn["operations"]) == 2
    for reply, told in {
        "<|REMEMBER|>notes|x<|END|>": "REMEMBER: no such operation",
        "<|READ notes<|END|>": "READ: its tag is not closed",
        "<|TAIL|>notes|many<|END|>": "no number of lines",
        "<|READ|>nots<|END|>": "did you mean notes?",
        "<|SEARCH|>notes|x<|END|>": "SEARCH is not allowed here",
        "<|APPEND|>notes<|END|>": "no text",
    }.items():
        assert told in logged(reply)[2], reply


def test_3_reads_are_answered_before_done_and_action_and_the_last_action_counts():
    replies = {
        (1, "log", 0): "<|APPEND|>notes|door<|END|><|READ|>notes<|END|><|DONE|>",
        (1, "plan", 0): "<|READ|>notes<|END|><|ACTION|>left<|END|>",
        (1, "plan", 1): "<|ACTION|>left<|END|> no, <|ACTION|>forward<|END|>",
    }
    _, records, requests, _ = play(replies)
    asked = [(r.key.phase, r.key.turn) for r in requests if r.key.step == 1]
    assert asked == [("log", 0), ("log", 1), ("plan", 0), ("plan", 1)]
    assert "READ notes:\ndoor" in requests[-3].messages[-1].content
    assert "READ notes:\ndoor" in requests[-1].messages[-1].content
    assert records[1]["action"] == "forward"


def test_4_names_do_not_collide_or_crash_and_a_map_has_one_line_a_key():
    reply = "<|CREATE|>north/room|a<|END|><|CREATE|>south/room|b<|END|>"
    reply += f"<|APPEND|>{'n' * 5_000}|x<|END|><|APPEND|>a\x00b|x<|END|><|APPEND|>../x|x<|END|>"
    reply += "<|UPSERT|>map|1,2|altar\nof law<|END|><|UPSERT|>map|1, 2|nothing<|END|>"
    agent, records, _, _ = play({(1, "log", 0): reply})
    store = {n: [text for _, text in lines] for n, lines in agent.store.snapshot().items()}
    assert store == {
        "notes": [],
        "map": ["1,2: nothing"],
        "north/room": ["a"],
        "south/room": ["b"],
    }
    operations = records[1]["phases"][0]["turns"][0]["operations"]
    assert [o["ok"] for o in operations] == [True, True, False, False, False, True, True]


def test_5_a_step_costs_the_same_however_long_the_episode_has_run(tmp_path):
    agent = Agent(template(), SamplingSettings(), episode=1, two_model=False, instructions="go")
    sizes = []
    with TraceWriter(tmp_path, "long", {"seed": 1}) as writer:
        for t in range(301):
            out = agent.observe(percept(t))
            while not isinstance(out, Decision):
                log = out.key.phase == "log" and not out.key.turn
                note = f"<|APPEND|>notes|step {t:05d} nothing new<|END|><|DONE|>"
                out = agent.receive(Completion(note if log else FORWARD))
            before = writer.path.with_name(writer.path.name + ".partial").stat().st_size
            writer.step(out.record)
            after = writer.path.with_name(writer.path.name + ".partial").stat().st_size
            sizes.append(after - before)
        path = writer.end(agent.end_record(percept(301)))
    assert len(agent.store.lines("notes")) == 300
    assert sum(sizes[250:300]) < 1.2 * sum(sizes[50:100])
    assert max(sizes[1:]) < 3_000
    assert len(read_trace(path).steps) == 301


def percept(t, text="a corridor"):
    actions = ("forward", "left", "right")
    fields = dict(ToyEnv().reset([0], [1])[0].fields)
    return Percept(text, f"T:{t}", fields, actions, t, action="forward" if t else None)


def test_6_a_failed_call_is_recorded_and_a_broken_episode_is_marked():
    failed = Completion("", finish_reason="error", error="HTTP 503")
    _, records, _, end = play({(0, "plan", 0): failed})
    assert records[0]["action_source"] == "fallback"
    assert "HTTP 503" in records[0]["errors"][0]
    assert end["memory_stats"]["failed_calls"] == 1 and end["memory_stats"]["fallbacks"] == 1
    agent = Agent(template(), SamplingSettings(), episode=1, two_model=False, instructions="go")
    broken = agent.end_record(None, "the engine died")
    assert broken["failed"] and broken["progression"] == 0.0
    assert broken["error"] == "the engine died"


def room(x=5, y=3, things=()):
    """9 x 7 cells of floor in walls, the player at x, y."""
    terrain = np.full((7, 9), int(Terrain.FLOOR), np.uint8)
    terrain[0] = terrain[-1] = int(Terrain.WALL)
    terrain[:, 0] = terrain[:, -1] = int(Terrain.WALL)
    return Grid(terrain=terrain, x=x, y=y, things=tuple(things), level="1")


def seen(t, grid, text):
    return Percept(text, f"T:{t}", {"grid": grid}, ("search", "north"), t, action="search")


def test_7_a_ticking_clock_and_a_walking_creature_are_no_effect():
    observer = ObsDiff()
    for t in range(4):
        cow = Thing("monster", "cow", 2 + t, 2)
        observer.update(seen(t, room(things=[cow]), f"cow {t} steps away, T:{t}"))
    assert not observer.outputs()["changed"] and observer.outputs()["run_length"] == 4
    observer.update(seen(4, room(y=2), "a room, T:4"))
    assert observer.outputs()["changed"]


def test_8_neighbours_come_from_the_cursor_not_from_the_drawing():
    drawn = "\n\n   @....\n   .@...\n"  # blank rows and two @
    observer = OBSERVERS["glyph_map"]()
    fields = {"grid": room(x=1, y=1), "map": drawn}
    observer.update(Percept(drawn, "", fields, ("north", "east"), 0))
    assert set(observer.outputs()["passable"]) == {"east", "south", "southeast"}
    assert "wall" in observer.outputs()["adjacent"]["north"]


def test_10_nothing_that_changes_stands_before_what_does_not():
    for name in ("crafter_v0", "minihack_v0", "nethack_v0"):
        one = load_template(name)
        for phase in (one.phases.log, one.phases.plan):
            kinds = [
                bool(one.slots[s].text and "{" not in one.text[one.slots[s].text])
                or one.slots[s].builtin in ("instructions", "actions", "memory_help")
                for s in (*phase.system, *phase.slots)
            ]
            first_change = kinds.index(False)
            constant = sum(kinds[:first_change])
            assert constant, f"{name}: the prompt opens with what changes"
            system = one.phases.log.system == one.phases.plan.system or phase.system
            assert system, f"{name}: nothing constant at all"


def test_12_a_template_is_data_and_is_never_executed(tmp_path):
    mark = tmp_path / "ran"
    data = json.loads(json.dumps(to_data(template())))
    data["text"]["task"] = (
        "{__import__('os').system('touch " + str(mark) + "')} {percept.__class__}"
    )
    path = tmp_path / "made.json"
    path.write_text(json.dumps(data))
    made = load_template(path)
    _, _, requests, _ = play({}, steps=1, use=dataclasses.replace(made, overrides=()))
    assert not mark.exists() and "__import__" in requests[0].messages[0].content
    for field, value in (("when", "__import__('os')"), ("source", "os.environ")):
        data = to_data(template())
        data["slots"]["see"] = {"text": "task", field: value}
        assert validate(from_data(data)), field
    with pytest.raises(ConfigError):
        from_data(to_data(template()) | {"code": "import os"})
    assert os.path.exists(path)
