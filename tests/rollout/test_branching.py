import copy
import dataclasses
import json

import pytest
from exhaustive import Truth, choices, spec

from automem_jax.agent.agent import Agent
from automem_jax.agent.template import load_template
from automem_jax.rollout.branching import BranchPoint, BranchSettings, measure, table_name
from automem_jax.rollout.engine import PolicyDown, run_episodes
from automem_jax.selection.effects import effect
from automem_jax.testing import ChoicePolicy, ScriptedPolicy, ToyEnv
from automem_jax.text.messages import Completion, Request, RequestKey
from automem_jax.traces.measured import read_measured
from automem_jax.traces.store import TraceError, read_trace

LENGTH = 2


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Traces of the mixed player, and every memory decision in them."""
    folder = tmp_path_factory.mktemp("traces")
    result = run_episodes(
        ToyEnv(8, LENGTH), ChoicePolicy(choices), spec(), range(24), folder, show_progress=False
    )
    points = []
    for path in result.paths:
        for step in read_trace(path).steps:
            for phase in step.phases:
                points += [
                    BranchPoint(str(path), step.t, phase.phase, turn.index)
                    for turn in phase.turns
                    if turn.operations
                ]
    return points


def truth_of(point: BranchPoint) -> float:
    trace = read_trace(point.trace)
    env = ToyEnv(1, LENGTH)
    seed = trace.header["seed"]
    agent = Agent(
        spec().template,
        spec().sampling,
        episode=seed,
        two_model=False,
        instructions=env.instructions,
        task="toy",
    )
    percept = env.reset([0], [seed])[0]
    for step in trace.steps[: point.t]:
        agent.observe(percept)
        for phase in step.phases:
            for turn in phase.turns:
                out = agent.receive(turn.completion)
        percept = env.step({0: out.action})[0]
    snapshot = env.snapshot(0)
    return Truth(env).worth(agent, snapshot, trace.steps[point.t], point.phase, point.turn)


def test_effects_agree_with_exhaustive_truth_and_their_intervals_cover_it(played, tmp_path):
    settings = BranchSettings(continuations=32)
    policy = ChoicePolicy(choices, run_seed=1)
    rows = measure(ToyEnv(64, LENGTH), policy, spec(), played, tmp_path / "t.jsonl", settings).rows
    truths = [truth_of(point) for point in played]
    found = [effect(row["as_was"], row["altered"]) for row in rows]
    assert len(rows) == len(played) >= 40
    assert min(truths) < -0.2 and max(truths) > 0.2 and truths.count(0.0) > 5
    agree = [
        (f.value > 0) - (f.value < 0) == (t > 0) - (t < 0)
        for f, t in zip(found, truths, strict=True)
    ]
    covered = [f.low <= t <= f.high for f, t in zip(found, truths, strict=True)]
    assert sum(agree) >= 0.95 * len(agree)
    assert sum(covered) >= 0.95 * len(covered)
    clear = [(f, t) for f, t in zip(found, truths, strict=True) if f.is_clear]
    assert len(clear) >= 10 and all((f.value > 0) == (t > 0) for f, t in clear)


def test_a_fork_goes_on_as_its_agent_and_leaves_it_alone():
    env = ToyEnv(1, LENGTH)
    percept = env.reset([0], [4])[0]
    fields = dict(episode=1, two_model=False, instructions=env.instructions, task="toy")
    agent = Agent(spec().template, spec().sampling, **fields)
    agent.observe(percept)
    with pytest.raises(ValueError, match="in flight"):
        agent.fork()
    agent.receive(Completion("<|ACTION|>wait<|END|>"))
    percept = env.step({0: "wait"})[0]
    other = agent.fork(5)
    assert other.observe(percept).key.episode == 5
    other.receive(Completion("<|APPEND|>notes|left<|END|><|DONE|>"))
    assert [text for _, text in other.store.lines("notes")] == ["left"]
    assert agent.store.lines("notes") == ()
    assert agent.observe(percept).key.episode == 1
    agent.receive(Completion("<|APPEND|>notes|left<|END|><|DONE|>"))
    done = [one.receive(Completion("<|ACTION|>wait<|END|>")) for one in (agent, other)]
    assert done[0] == done[1]


@pytest.mark.parametrize("name", ["memento_f4_v0", "crafter_v5", "minihack_v4", "nethack_v2"])
def test_agents_of_every_kind_of_template_can_be_forked(name):
    template = load_template(name)
    agent = Agent(template, spec().sampling, episode=1, two_model=False, instructions="", task="t")
    other = agent.fork(2)
    assert other.template is agent.template and other.store is not agent.store


@pytest.mark.parametrize("slots", [1, 5])
def test_figures_do_not_depend_on_slots_and_are_never_measured_twice(played, tmp_path, slots):
    table, settings, points = tmp_path / "t.jsonl", BranchSettings(continuations=3), played[:6]
    whole = measure(
        ToyEnv(9, LENGTH), ChoicePolicy(choices), spec(), points, tmp_path / "w.jsonl", settings
    )
    few = dataclasses.replace(settings, max_calls=1)
    part = measure(ToyEnv(slots, LENGTH), ChoicePolicy(choices), spec(), points, table, few)
    assert 0 < part.new < len(points) and part.unmeasured == len(points) - part.new
    with open(table, "ab") as file:
        file.write(b'{"episode": "toy-0", "t"')  # torn by a kill
    policy = ChoicePolicy(choices)
    rest = measure(ToyEnv(slots, LENGTH), policy, spec(), points, table, settings)
    assert rest.rows == whole.rows and rest.new == len(points) - part.new
    again = measure(ToyEnv(slots, LENGTH), ScriptedPolicy(_never), spec(), [], table.with_name("x"))
    assert again.rows == []
    more = measure(ToyEnv(slots, LENGTH), policy, spec(), points, table, settings)
    assert (more.new, more.calls, more.rows) == (0, 0, whole.rows)
    assert len(list(read_measured(table))) == len(points)


def _never(_):
    raise AssertionError("nothing is to be asked")


def test_other_settings_do_not_mix_with_a_table(played, tmp_path):
    policy, env = ChoicePolicy(choices), ToyEnv(4, LENGTH)
    two, three = BranchSettings(continuations=2), BranchSettings(continuations=3)
    measure(env, policy, spec(), played[:1], tmp_path / "t.jsonl", two)
    with pytest.raises(ValueError, match="other settings"):
        measure(env, policy, spec(), played[:1], tmp_path / "t.jsonl", three)
    assert table_name(policy, spec(), two) != table_name(policy, spec(), three)


def test_resampling_and_forced_consultations(played, tmp_path):
    """A forced look at good notes helps; what was written by chance is judged against its like."""
    trace = next(
        p for p in played if p.phase == "log" and "APPEND|>notes|left<|END" in _text(p)
        and read_trace(p.trace).header["seed"] % 2 == 0
    )  # fmt: skip
    fork_step = next(
        s.t for s in read_trace(trace.trace).steps if "the fork" in s.percept["long_text"]
    )
    settings = BranchSettings(continuations=64)
    points = [
        dataclasses.replace(trace, alteration="resample"),
        BranchPoint(trace.trace, fork_step, "plan", 0, "consult"),
    ]
    policy = ChoicePolicy(choices, run_seed=2)
    rows = measure(ToyEnv(64, LENGTH), policy, spec(), points, tmp_path / "t.jsonl", settings).rows
    assert len(rows[0]["answers"]) == 64 and "answers" not in rows[1]
    assert set(rows[0]["answers"]) <= {text for text, _ in choices(_request(trace))}
    written, consulted = (effect(row["as_was"], row["altered"]) for row in rows)
    assert written.low > 0
    if "READ" in _text(BranchPoint(trace.trace, fork_step, "plan", 0)):
        assert consulted.value == 0
    else:
        assert consulted.high < 0.6  # as was: a coin or worse; consulted: nine in ten


def _request(point: BranchPoint) -> Request:
    """What the policy was asked at a turn."""
    for phase in read_trace(point.trace).steps[point.t].phases:
        if phase.phase == point.phase:
            messages = tuple(phase.turns[point.turn].messages)
            key = RequestKey(0, point.t, point.phase, point.turn)
            return Request("gameplay", messages, spec().sampling, key)
    raise AssertionError(point)


def _text(point: BranchPoint) -> str:
    for phase in read_trace(point.trace).steps[point.t].phases:
        if phase.phase == point.phase:
            return phase.turns[point.turn].completion.text
    return ""


def test_what_does_not_play_again_is_refused(played, tmp_path):
    policy, settings = ChoicePolicy(choices), BranchSettings(continuations=1)

    def ask(env, point, **changes):
        return measure(env, policy, spec(**changes), [point], tmp_path / "t.jsonl", settings)

    with pytest.raises(TraceError, match="another observation"):
        ask(ToyEnv(1, LENGTH + 3), next(p for p in played if p.t >= LENGTH + 1))
    with pytest.raises(TraceError, match="two_model"):
        ask(ToyEnv(1, LENGTH), played[0], two_model=True)
    with pytest.raises(TraceError, match="asked for step 99"):
        ask(ToyEnv(1, LENGTH), dataclasses.replace(played[0], t=99))
    with pytest.raises(ValueError, match="carry_memory"):
        ask(ToyEnv(1, LENGTH), played[0], carry_memory=True)
    with pytest.raises(ValueError, match="'window' makes no memory decisions"):
        ask(ToyEnv(1, LENGTH), played[0], kind="window")
    with pytest.raises(ValueError, match="alteration"):
        ask(ToyEnv(1, LENGTH), dataclasses.replace(played[0], alteration="wish"))
    down = ScriptedPolicy(lambda _: Completion("", finish_reason="error", error="x", outage=True))
    with pytest.raises(PolicyDown):
        measure(ToyEnv(1, LENGTH), down, spec(), [played[0]], tmp_path / "d.jsonl", settings)
    broken = ScriptedPolicy(lambda _: Completion("", finish_reason="error", error="x"))
    row = measure(ToyEnv(1, LENGTH), broken, spec(), [played[0]], tmp_path / "b.jsonl", settings)
    assert (row.rows[0]["broken"], row.rows[0]["as_was"]) == (1, [])


def test_a_table_is_json_lines_with_its_settings_first(played, tmp_path):
    measure(
        ToyEnv(4, LENGTH), ChoicePolicy(choices), spec(), played[:2], tmp_path / "t.jsonl",
        BranchSettings(continuations=2),
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert lines[0]["type"] == "header" and lines[0]["continuations"] == 2
    assert {line["episode"] for line in lines[1:]} <= {"toy-0", "toy-1"}
    assert copy.deepcopy(lines[1])["broken"] == 0 and len(lines[1]["as_was"]) == 2
