"""The selection benchmark on the corridor game."""

from automem_jax.agent.template import load_template
from automem_jax.bench.selecting import Endless, copies, measure, play
from automem_jax.config import SelectionConfig
from automem_jax.testing import ToyEnv
from automem_jax.traces.store import read_trace

STEPS = 40


def test_episodes_are_as_long_as_asked_for_and_their_copies_are_selected_from(tmp_path):
    template = load_template("memento_v0")
    env = ToyEnv(2, length=3, max_steps=15)
    paths = play(env, "toy", template, STEPS, 3, tmp_path / "played")
    traces = [read_trace(path) for path in paths]
    assert [len(trace.steps) for trace in traces] == [STEPS] * 3
    assert [step.t for step in traces[0].steps] == list(range(STEPS))
    assert all(trace.end["end_reason"] == "step cap" for trace in traces)
    made = copies(paths, 7, tmp_path / "traces")
    assert len({read_trace(path).header["seed"] for path in made}) == 7
    config = SelectionConfig(kind="signals", min_score=-1.0, max_examples=9)
    report = measure(made, config, tmp_path / "select", 3, STEPS)
    assert (report.episodes, report.kept) == (7, 9)
    assert report.decisions > 50 and report.wall_s > 0 and report.peak_gib > 0.01


def test_a_world_that_ends_is_followed_by_another_one():
    env = Endless(ToyEnv(1, length=1), 5)
    env.reset([0], [4])
    percepts = [env.step({0: a})[0] for a in ("forward", "left", "forward", "left", "wait")]
    assert [p.done for p in percepts] == [False] * 4 + [True]
    assert [p.fields["position"] for p in percepts] == [1, 0, 1, 0, 0]
    assert [p.action for p in percepts] == ["forward", "left", "forward", "left", "wait"]
