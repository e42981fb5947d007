"""Spends the budgets of selection by signals: which decisions are branched, which are rated; and the
selections that a specialist can be trained on to see what each signal is worth: without it, or with it alone.

Tables lie in `<workdir>/select/measured/`, named by everything that their figures depend on, so that other
settings never mix with them and the same ones are never paid for twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from automem_jax.config import SelectionConfig, SignalWeights
from automem_jax.policies.base import Policy
from automem_jax.rollout.branching import BranchPoint, BranchResult, BranchSettings
from automem_jax.selection import judge
from automem_jax.selection.by_signals import score
from automem_jax.selection.combine import Scored, priorities
from automem_jax.selection.signals import EpisodeSignals

WITHOUT, ONLY = "-without-", "-only-"

# points, settings -> (table, result)
Measure = Callable[[Sequence[BranchPoint], BranchSettings], tuple[Path, BranchResult]]


@dataclass(frozen=True)
class Measurements:
    """Tables for `selection.select`; None where a signal has no weight."""

    counterfactual: Path | None = None
    ratings: Path | None = None


def measure_decisions(
    episodes: Sequence[EpisodeSignals],
    config: SelectionConfig,
    folder: Path,
    *,
    branch: Measure,
    make_judge: Callable[[], Policy],
    tell: Callable[[str], None] = print,
) -> Measurements:
    """Measures what has a weight, each within its budget, the most promising decisions first.

    Args:
      branch: runs rollout.branching.measure with what the traces were made with.
      make_judge: the judge's policy; called only where ratings have a weight.
      tell: is given a line about each.
    """
    scored = score(episodes, config)
    counterfactual = ratings = None
    if config.weights.counterfactual > 0:
        budget = config.counterfactual
        settings = BranchSettings(budget.continuations, budget.horizon, budget.max_calls)
        chosen = priorities(scored, config, budget.decisions, budget.explore)
        points = [_point(one, budget.alteration) for one in chosen]
        counterfactual, result = branch(points, settings)
        tell(
            f"counterfactual: {len(result.rows)} of {len(points)} decisions measured, {result.new} new "
            f"({result.calls:,} model calls, {result.steps:,} environment steps)"
        )
    if config.weights.judge > 0:
        policy = make_judge()
        ratings = folder / judge.table_name(policy, config.judge)
        chosen = priorities(scored, config, config.judge.decisions, 0.0)
        found = judge.rate(chosen, policy, config.judge, ratings)
        tell(
            f"judge: {found.rated} decisions rated, {found.new} new, {found.unrated} without a rating"
        )
    return Measurements(counterfactual, ratings)


def without(config: SelectionConfig, signal: str) -> SelectionConfig:
    """The same selection without one signal: its weight 0 or its gate open.

    Raises:
      ValueError: the config does not use that signal, or nothing else.
    """
    weights = dataclasses.asdict(config.weights)
    if signal in config.gates:
        return dataclasses.replace(config, gates=tuple(g for g in config.gates if g != signal))
    used = [name for name, weight in weights.items() if weight > 0]
    if signal not in used:
        raise ValueError(
            f"signal {signal!r} is not used; used are {', '.join((*used, *config.gates))}"
        )
    if len(used) == 1:
        raise ValueError(f"signal {signal!r} is the only one with a weight; give another one too")
    return dataclasses.replace(config, weights=SignalWeights(**(weights | {signal: 0.0})))


def only(config: SelectionConfig, signal: str) -> SelectionConfig:
    """The same selection by one signal alone, whatever its weight is; the gates stay.

    Raises:
      ValueError: there is no such signal.
    """
    names = [field.name for field in dataclasses.fields(SignalWeights)]
    if signal not in names:
        raise ValueError(f"signal {signal!r} is none of {', '.join(names)}")
    weights = SignalWeights(**{name: float(name == signal) for name in names})
    return dataclasses.replace(config, weights=weights)


def named_selection(config: SelectionConfig, name: str) -> SelectionConfig:
    """What a selection's name asks for: a kind, or "signals-without-SIGNAL" or "signals-only-SIGNAL".

    Raises:
      ValueError: the signal does not fit.
    """
    for mark, change in ((WITHOUT, without), (ONLY, only)):
        kind, found, signal = name.partition(mark)
        if found:
            return change(dataclasses.replace(config, kind=kind), signal)
    return dataclasses.replace(config, kind=name)


def _point(one: Scored, alteration: str) -> BranchPoint:
    key = one.decision.key
    return BranchPoint(one.episode.lineage.trace, key.t, key.phase, key.turn, alteration)
