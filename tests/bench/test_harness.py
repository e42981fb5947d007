"""What the agent costs besides environment and model does not grow with the episode."""

import json

import pytest

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.memory import replay
from automem_jax.agent.template import load_template
from automem_jax.bench import harness
from automem_jax.config import EnvConfig
from automem_jax.testing import ScriptedPlayer, ToyEnv
from automem_jax.text.messages import SamplingSettings
from automem_jax.traces.store import read_trace


@pytest.fixture(scope="module", params=["crafter_v5", "crafter_v0"])
def played(request, tmp_path_factory):
    template = load_template(request.param)
    config = EnvConfig(name="craftax_classic", task="Craftax-Classic")
    directory = tmp_path_factory.mktemp("harness")
    return harness.measure(config, template, 240, directory), directory


def test_crafter_is_cheap_small_and_cacheable(played):
    report, directory = played
    assert report.steps == 240 and report.operations > 100 and report.memory_lines > 40
    assert report.trace_kb_per_step < 4  # the target is 6
    assert report.late_kb < 1.4 * report.early_kb + 0.3
    assert report.prefix_share["all"] >= 0.6
    assert report.early_cpu_ms < 20  # the target is 3; a busy machine must not fail the test
    (path,) = directory.glob("*.jsonl")
    trace = read_trace(path)
    assert [step.t for step in trace.steps] == list(range(240))
    replay(trace.changes())


def test_the_player_uses_what_the_template_offers():
    template = load_template("crafter_v0")
    env = ToyEnv(length=500, max_steps=400)
    agent = Agent(template, SamplingSettings(), episode=3, two_model=True, instructions="")
    player = ScriptedPlayer(template, env.actions)
    percept, done = env.reset([0], [0])[0], []
    for _ in range(300):
        out = agent.observe(percept)
        while not isinstance(out, Decision):
            out = agent.receive(player.complete([out])[0])
        done += [o for p in out.record["phases"] for t in p["turns"] for o in t["operations"]]
        percept = env.step({0: out.action})[0]
    names = {operation["op"] for operation in done}
    assert {"READ", "SEARCH", "TAIL", "APPEND"} <= names
    assert sum(operation["ok"] for operation in done) > 0.95 * len(done)


def test_a_death_goes_on_in_another_world():
    class Short(ToyEnv):
        def __init__(self):
            super().__init__(max_steps=5)

    stream = harness._Endless(Short())
    percept = stream.first()
    for step in range(1, 13):
        percept = stream.step("wait")
        assert percept.step == step and not percept.done
    assert stream.worlds == 3


def test_too_short_an_episode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="too few"):
        harness.measure(EnvConfig(), load_template("memento_v0"), 50, tmp_path)


def test_the_report_is_json(played):
    import dataclasses

    json.dumps(dataclasses.asdict(played[0]))
