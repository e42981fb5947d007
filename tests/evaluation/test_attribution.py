"""Planted bad decisions: what selection lets through, by the signals that it goes by."""

import dataclasses
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "rollout"))

from exhaustive import OTHER, TRIVIA, choices, spec

from automem_jax.config import CounterfactualConfig, SelectionConfig, SignalWeights
from automem_jax.evaluation.attribution import measure_decisions, named_selection, only, without
from automem_jax.rollout.branching import measure, table_name
from automem_jax.rollout.engine import run_episodes
from automem_jax.selection.by_signals import score
from automem_jax.selection.examples import scan_signals, select
from automem_jax.testing import ChoicePolicy, PlantedPolicy, ToyEnv

LENGTH = 2


class Corridor(ToyEnv):
    """Its instructions do not name the sides, so that a side that was not seen is known as such."""

    instructions = "Walk to the fork and take the side that the sign names."


NONE = SignalWeights(0, 0, 0, 0, 0, 0, 0, 0)


def plant(request, answer, source: random.Random) -> str | None:
    """A wrong sign, something of no use, a note made twice, a look where nothing is needed."""
    told = "\n".join(m.content for m in request.messages)
    if request.key.phase == "log":
        if "a sign says" in told:
            side = told.split("a sign says ")[1].split()[0]
            return _note(source.choice([OTHER[side], *TRIVIA]))
        return _note(source.choice(TRIVIA))
    if "the fork" in told:
        return "<|SEARCH|>notes|dragon<|END|>"
    return "<|READ|>notes<|END|>"


def _note(text):
    return f"<|APPEND|>notes|{text}<|END|><|DONE|>"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """200 episodes with 30 % of the memory decisions planted; their traces, and which those are."""
    folder = tmp_path_factory.mktemp("planted")
    policy = PlantedPolicy(ChoicePolicy(choices), plant, rate=0.3)
    result = run_episodes(
        Corridor(64, LENGTH), policy, spec(), range(200), folder, show_progress=False
    )
    planted = {(f"toy-{k.episode}", k.step, k.phase, k.turn) for k in policy.planted}
    return result.paths, planted, policy


def config_of(**weights) -> SelectionConfig:
    return SelectionConfig(
        kind="signals",
        weights=dataclasses.replace(NONE, **weights),
        counterfactual=CounterfactualConfig(decisions=50, continuations=20, explore=0.0),
        max_per_episode=100,
        min_standard_errors=2.0,
    )


def let_through(scored, planted) -> tuple[float, int]:
    """Share of the planted decisions that are kept, and how many decisions are kept."""
    kept = {one.name for one in scored if one.reason is None}
    there = {one.name for one in scored} & planted
    return len(kept & there) / len(there), len(kept)


def test_measured_signals_reject_planted_decisions_and_outcome_lets_them_through(played, tmp_path):
    paths, planted, _ = played
    env, clean = Corridor(64, LENGTH), ChoicePolicy(choices)
    config = config_of(lineage=1.0, counterfactual=1.0)
    episodes = scan_signals(paths, config)
    decisions = sum(len(e.decisions) for e in episodes)
    assert 0.2 < len(planted) / decisions < 0.4

    def branch(points, settings):
        table = tmp_path / table_name(clean, spec(), settings)
        # The planted answers are in the traces; what goes on from them is the player's own.
        return table, measure(env, clean, spec(), points, table, settings)

    said = []
    found = measure_decisions(
        episodes, config, tmp_path, branch=branch, make_judge=pytest.fail, tell=said.append
    )
    assert "of 50 decisions measured" in said[0] and found.ratings is None
    shares = {
        name: let_through(score(episodes, config_of(**weights), found.counterfactual), planted)
        for name, weights in {
            "measured": {"lineage": 1.0, "counterfactual": 1.0},
            "counterfactual": {"counterfactual": 1.0},
            "lineage": {"lineage": 1.0},
            "outcome": {"outcome": 1.0},
        }.items()
    }
    outcome_alone = dataclasses.replace(config_of(outcome=1.0), gates=())
    shares["outcome, no gates"] = let_through(score(episodes, outcome_alone), planted)
    print(shares)
    for name, least in (("measured", 5), ("counterfactual", 10), ("lineage", 0)):
        assert shares[name][0] <= 0.05 and shares[name][1] >= least, (name, shares[name])
    assert shares["outcome, no gates"][0] > 0.3
    report = select(paths, config, tmp_path / "s", counterfactual=found.counterfactual)
    assert report.count >= 5 and "followed" in report.details["agreement"]["counterfactual"]


def test_one_signal_is_left_out_by_name():
    config = config_of(lineage=1.0, outcome=0.5)
    assert without(config, "outcome").weights == dataclasses.replace(NONE, lineage=1.0)
    assert without(config, "idle").gates == ("redundant", "contradicted")
    with pytest.raises(ValueError, match="'judge' is not used; used are lineage, outcome"):
        without(config, "judge")
    with pytest.raises(ValueError, match="only one with a weight"):
        without(config_of(lineage=1.0), "lineage")
    assert only(config, "judge").weights == dataclasses.replace(NONE, judge=1.0)
    with pytest.raises(ValueError, match="'luck' is none of lineage, followed"):
        only(config, "luck")


def test_a_selection_is_asked_for_by_its_name():
    config = dataclasses.replace(config_of(lineage=1.0, outcome=0.5), kind="lineage")
    for name, kind, weights in (
        ("random", "random", config.weights),
        ("signals-without-lineage", "signals", dataclasses.replace(NONE, outcome=0.5)),
        ("signals-only-avoided_repeat", "signals", dataclasses.replace(NONE, avoided_repeat=1.0)),
    ):
        found = named_selection(config, name)
        assert (found.kind, found.weights) == (kind, weights)
