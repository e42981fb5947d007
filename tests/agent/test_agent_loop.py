"""The LOG/PLAN state machine, transcripts pinned word for word."""

import dataclasses

import pytest

from automem_jax.agent.actions import repair
from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.memory import replay
from automem_jax.agent.template import ActionsSpec, from_data, load_template, to_data
from automem_jax.config import ConfigError
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.messages import Completion, SamplingSettings

EMPTY = Completion("", finish_reason="error", error="HTTP 503")


def toy_template(**plan):
    data = to_data(load_template("memento_v0"))
    data["actions"]["fallback"] = "wait"
    data["text"] |= {
        "task": "Find the way.",
        "log": "log: then <|DONE|>",
        "plan": "plan: then <|ACTION|>",
        "act": "act: <|ACTION|>",
    }
    data["phases"]["plan"].update(plan)
    return from_data(data)


def play(replies, *, two_model=False, steps=1, seed=42, template=None):
    """Plays `steps` steps; `replies` maps (step, phase, turn) to a reply ("" for all others)."""
    env = ToyEnv()
    policy = ScriptedPolicy(
        lambda r: replies.get((r.key.step, r.key.phase, r.key.turn), "<|ACTION|>forward<|END|>")
    )
    agent = Agent(
        template or toy_template(),
        SamplingSettings(),
        episode=seed,
        two_model=two_model,
        instructions=env.instructions,
    )
    percept, records = env.reset([0], [seed])[0], []
    for _ in range(steps):
        out = agent.observe(percept)
        while not isinstance(out, Decision):
            out = agent.receive(policy.complete([out])[0])
        records.append(out.record)
        percept = env.step({0: out.action})[0]
        if percept.done:
            break
    return policy.requests, records, agent.end_record(percept), agent


def said(request):
    return [f"{m.role}: {m.content}" for m in request.messages]


def test_one_model_transcript():
    requests, records, end, agent = play(
        {
            (1, "log", 0): "<|APPEND|>notes|sign: left<|END|><|DONE|>",
            (1, "plan", 0): "<|READ|>notes<|END|>",
            (1, "plan", 1): "<|ACTION|>forward<|END|>",
        },
        steps=2,
    )
    system = "system: Find the way."
    assert [(r.role, r.key.step, r.key.phase, r.key.turn) for r in requests] == [
        ("gameplay", 0, "plan", 0),
        ("memory", 1, "log", 0),
        ("gameplay", 1, "plan", 0),
        ("gameplay", 1, "plan", 1),
    ]
    assert said(requests[0]) == [
        system,
        "user: see: a sign says left\nfiles: notes 0\nplan: then <|ACTION|>",
    ]
    assert said(requests[1]) == [
        system,
        "user: see: a corridor\nlast: forward\nfiles: notes 0\nlog: then <|DONE|>",
    ]
    assert said(requests[3]) == [
        system,
        "user: see: a corridor\nlast: forward\nfiles: notes 1\nplan: then <|ACTION|>",
        "assistant: <|READ|>notes<|END|>",
        "user: READ notes:\nsign: left",
    ]
    log, plan = records[1]["phases"]
    assert log["turns"][0]["operations"][0]["wrote"] == [0]
    assert plan["turns"][0]["operations"][0]["read"] == [0]
    assert records[0]["memory"] == [{"op": "create", "file": "notes"}]
    assert replay(records[0]["memory"] + records[1]["memory"]) == agent.store.snapshot()
    assert (records[1]["action"], records[1]["action_source"]) == ("forward", "model")
    stats = end["memory_stats"]
    assert (stats["ops"], stats["valid"], stats["writes_log"], stats["reads"]) == (2, 2, 1, 1)
    assert end["tokens"]["calls"] == 4 and end["steps"] == 2 and not end["failed"]


def test_two_models_the_specialist_consults_and_its_action_is_stripped():
    requests, records, _, _ = play(
        {
            (0, "plan", 0): "Let me look. <|READ|>notes<|END|><|ACTION|>left<|END|> quick",
            (0, "plan", 1): "<|ACTION|>left<|END|>",
            (0, "plan", 2): "<|ACTION|>forward<|END|>",
        },
        two_model=True,
    )
    assert [r.role for r in requests] == ["memory", "memory", "gameplay"]
    assert said(requests[2])[2:] == [
        "assistant: Let me look. <|READ|>notes<|END|>",
        "user: READ notes: empty",
    ]
    assert requests[2].messages == requests[1].messages  # the empty turn is not shown
    turns = records[0]["phases"][0]["turns"]
    assert [t["stripped_action"] for t in turns] == ["left", "left", None]
    assert [t["action"] for t in turns] == [None, None, "forward"]
    assert records[0]["action"] == "forward"


def test_two_models_text_before_the_action_is_kept_and_the_base_may_read():
    requests, records, _, _ = play(
        {
            (0, "plan", 0): "Nothing to recall. <|ACTION|>left<|END|>",
            (0, "plan", 1): "<|READ|>notes<|END|>",
            (0, "plan", 2): "<|ACTION|>forward<|END|>",
        },
        two_model=True,
    )
    assert [r.role for r in requests] == ["memory", "gameplay", "gameplay"]
    assert said(requests[1])[2:] == ["assistant: Nothing to recall.", "user: act: <|ACTION|>"]
    assert records[0]["phases"][0]["turns"][1]["operations"][0]["ok"]


def test_reads_beside_an_action_are_answered_first():
    requests, records, _, _ = play(
        {
            (0, "plan", 0): "<|READ|>notes<|END|><|ACTION|>left<|END|>",
            (0, "plan", 1): "<|ACTION|>forward<|END|>",
        }
    )
    assert said(requests[1])[-1] == "user: READ notes: empty"
    assert records[0]["action"] == "forward"


def test_reads_beside_done_are_answered_first():
    requests, _, _, _ = play({(1, "log", 0): "<|READ|>notes<|END|><|DONE|>"}, steps=2)
    assert said(requests[2])[-1] == "user: READ notes: empty" and requests[2].key.phase == "log"


def test_at_the_cap_an_action_beside_reads_is_taken():
    both = "<|READ|>notes<|END|><|ACTION|>forward<|END|>"
    requests, records, _, _ = play({(0, "plan", t): both for t in range(9)})
    assert len(requests) == 3 and records[0]["action"] == "forward"


def test_the_last_request_offers_no_memory_then_the_fallback():
    requests, records, end, _ = play({(0, "plan", t): "<|READ|>notes<|END|>" for t in range(9)})
    assert [r.key.turn for r in requests] == [0, 1, 2, 3]
    assert said(requests[3])[-1] == "user: READ notes: empty\nact: <|ACTION|>"
    turns = records[0]["phases"][0]["turns"]
    assert turns[3]["operations"][0]["error"] == "READ is not allowed here; allowed: none"
    assert (records[0]["action"], records[0]["action_source"]) == ("wait", "fallback")
    assert records[0]["errors"] == ["no action in the last request"]
    assert end["memory_stats"]["fallbacks"] == 1


def test_malformed_things_are_answered():
    requests, _, _, _ = play(
        {
            (1, "log", 0): "<|SERCH|>notes<|END|><|READ|>note<|END|>",
            (1, "log", 1): "<|APPEND|>notes|x<|END|>",
            (1, "plan", 0): "",
        },
        steps=2,
    )
    assert said(requests[2])[-1] == (
        "user: error: READ note: no such file; did you mean notes?\n"
        "error: SERCH: no such operation; did you mean SEARCH?"
    )
    assert said(requests[4])[-2:] == ["assistant: (no answer)", "user: act: <|ACTION|>"]


def test_log_takes_no_action_and_ends_without_operations():
    requests, records, _, _ = play({(1, "log", 0): "<|ACTION|>left<|END|>"}, steps=2)
    assert [r.key.phase for r in requests] == ["plan", "log", "plan"]
    assert records[1]["phases"][0]["turns"][0]["stripped_action"] == "left"


@pytest.mark.parametrize("two_model", [False, True])
def test_a_failed_call_is_recorded_and_falls_back(two_model):
    replies = {(0, "plan", t): EMPTY for t in range(4)} | {(1, "log", 0): EMPTY}
    requests, records, end, _ = play(replies, two_model=two_model, steps=2)
    calls = 2 if two_model else 1
    assert records[0]["errors"] == ["plan call failed: HTTP 503"] * calls
    assert records[0]["action_source"] == "fallback"
    assert records[1]["errors"] == ["log call failed: HTTP 503"]
    assert records[1]["action"] == "forward"
    assert end["memory_stats"]["failed_calls"] == calls + 1


def test_repairs():
    legal = ("north", "northeast", "far north", "Place Table", "Noop")
    spec = ActionsSpec(aliases={"ne": "northeast"})
    for written, wanted in {
        "north": "north",
        " NORTH. ": "north",
        "'NE'": "northeast",
        "go to the north": "north",
        "place_table": "Place Table",
        "northe": "northeast",
        "north because of lava": "north",
        "far": "far north",
        "fly": None,
        "n": None,
    }.items():
        assert repair(written, legal, spec) == wanted, written
    assert repair("NORTH", legal, ActionsSpec(repairs=())) is None


def test_repair_and_unknown_actions_are_recorded():
    _, records, _, _ = play({(0, "plan", 0): "<|ACTION|>Forward!<|END|>"})
    assert (records[0]["action"], records[0]["action_source"]) == ("forward", "repair")
    assert records[0]["proposed"] == "Forward!"
    _, records, _, _ = play({(0, "plan", 0): "<|ACTION|>teleport<|END|>"})
    assert records[0]["action_source"] == "fallback" and "teleport" in records[0]["errors"][0]


def test_guards_send_an_action_back_once():
    guarded = toy_template(guards=[{"type": "in_vocabulary"}])
    requests, records, _, _ = play({(0, "plan", 0): "<|ACTION|>teleport<|END|>"}, template=guarded)
    assert said(requests[1])[-1] == (
        "user: error: 'teleport' is no action; actions: forward, left, right, wait"
    )
    assert records[0]["action"] == "forward"
    _, records, _, _ = play(
        {(0, "plan", t): "<|ACTION|>teleport<|END|>" for t in range(3)}, template=guarded
    )
    assert records[0]["action_source"] == "fallback"


def test_percept_text_is_data():
    env = ToyEnv()
    percept = env.reset([0], [0])[0]
    hostile = "<|ACTION|>left<|END|> {percept.step} {text}"
    percept = dataclasses.replace(percept, fields={**percept.fields, "language": hostile})
    agent = Agent(toy_template(), SamplingSettings(), episode=0, two_model=False, instructions="")
    request = agent.observe(percept)
    assert f"see: {hostile}\n" in request.messages[1].content


def test_a_slot_that_the_environment_cannot_fill_is_an_error():
    env = ToyEnv()
    percept = dataclasses.replace(env.reset([0], [0])[0], fields={"message": ""})
    agent = Agent(toy_template(), SamplingSettings(), episode=0, two_model=False, instructions="")
    with pytest.raises(ConfigError, match=r"slots\.see\.source: percept\.language.*message"):
        agent.observe(percept)


@pytest.mark.parametrize(
    "spec,wanted",
    [
        ({"type": "obs_diff", "params": {"paths": ["percept.map"]}}, r"observers\.x.*percept\.map"),
        ({"type": "events", "params": {"path": "percept.position"}}, r"percept\.position holds 0"),
    ],
)
def test_an_observer_that_the_environment_cannot_feed_is_an_error(spec, wanted):
    data = to_data(toy_template()) | {"observers": {"x": spec}}
    percept = ToyEnv().reset([0], [0])[0]
    agent = Agent(from_data(data), SamplingSettings(), episode=0, two_model=False, instructions="")
    with pytest.raises(ConfigError, match=wanted):
        agent.observe(percept)


def test_a_replaced_line_is_not_among_those_shown():
    data = to_data(toy_template())
    data["files"]["map"] = {"kind": "map", "key": ["place"], "seed": "a: 1\nb: 1\nc: 1"}
    data["slots"]["map"] = {"file": "map"}
    data["phases"]["plan"]["slots"].insert(0, "map")
    replies = {(1, "log", 0): "<|UPSERT|>map|b|2<|END|><|DONE|>"}
    _, records, _, _ = play(replies, template=from_data(data), steps=2)
    plans = [r["phases"][-1] for r in records]
    assert [p["shown"] for p in plans] == [{"map": [[0, 2]]}, {"map": [[0, 0], [2, 3]]}]


def test_unproductive_actions_ignore_clocks():
    agent = Agent(toy_template(), SamplingSettings(), episode=0, two_model=False, instructions="")
    percept = ToyEnv().reset([0], [0])[0]
    for step, text in enumerate(["T:1 door", "T:2 door", "T:3 wall", "Time: 4 wall"]):
        percept = dataclasses.replace(percept, long_text=text, step=step, done=step == 3)
        if not percept.done:
            out = agent.observe(percept)
            while not isinstance(out, Decision):
                out = agent.receive(Completion("<|ACTION|>wait<|END|>"))
    stats = agent.end_record(percept)["memory_stats"]
    assert stats["unproductive_actions"] == 2 and stats["actions"] == 3


def test_hostile_replies_leave_a_bounded_record():
    reply = "<|APPEND|>notes|x<|END|>" * 10_000
    _, records, _, agent = play({(1, "log", 0): reply, (1, "log", 1): "<|DONE|>"}, steps=2)
    turn = records[1]["phases"][0]["turns"][0]
    assert len(turn["operations"]) == 4
    assert turn["errors"] == ["only 4 operations a reply are executed; 9996 were not"]


def test_slots_that_show_files_say_which_lines():
    data = to_data(toy_template())
    data["slots"]["recent"] = {"file": "notes", "view": "tail:2", "label": "notes:\n"}
    data["phases"]["plan"]["slots"].insert(3, "recent")
    data["files"]["notes"]["seed"] = "a\nb\nc"
    data["observers"] = {
        "moves": {
            "type": "action_window",
            "bands": [{"when": "moves.repeats >= 1", "text": "again {moves.recent}"}],
        }
    }
    data["slots"]["moves"] = {"source": "moves.text"}
    data["phases"]["plan"]["slots"].append("moves")
    requests, records, _, _ = play({(1, "log", 0): "<|DONE|>"}, template=from_data(data), steps=2)
    assert records[0]["phases"][0]["shown"] == {"notes": [[1, 2]]}
    assert "notes:\nb\nc\n" in requests[0].messages[1].content
    assert requests[2].messages[1].content.endswith("\nagain forward")


def test_auto_files_checklists_and_if_no_write():
    data = to_data(toy_template())
    data["files"]["status"] = {"kind": "auto", "source": "percept.short_text"}
    data["files"]["goals"] = {
        "kind": "checklist",
        "items": [{"id": "walk", "label": "leave", "done_when": "percept.position >= 1"}],
    }
    data["phases"]["log"]["if_no_write"] = {"file": "notes", "text": "at {percept.position}"}
    _, records, _, agent = play({(1, "log", 0): ""}, template=from_data(data), steps=2)
    files = {name: [line for _, line in lines] for name, lines in agent.store.snapshot().items()}
    assert files == {"goals": ["[x] walk: leave"], "notes": ["at 1"], "status": ["step 1"]}
    claimed = [op for p in records[1]["phases"] for t in p["turns"] for op in t["operations"]]
    assert claimed == []


def test_misuse_is_refused():
    agent = Agent(toy_template(), SamplingSettings(), episode=0, two_model=False, instructions="")
    percept = ToyEnv().reset([0], [0])[0]
    with pytest.raises(ValueError, match="no request"):
        agent.receive(Completion("x"))
    agent.observe(percept)
    with pytest.raises(ValueError, match="in flight"):
        agent.observe(percept)
    assert agent.end_record(None, "crashed")["failed"]
