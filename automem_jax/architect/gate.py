"""Keep or drop a candidate template: paired seeds, batch by batch, until a confidence sequence decides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.architect.sequential import MeanBet
from automem_jax.config import ConfigError, GateConfig, SeedsConfig, seed_sets, shared_seeds
from automem_jax.evaluation.statistics import mean, paired_difference

_EARLIEST_DROP = 8  # pairs before a candidate may be dropped for having little chance
_NEAR = (
    0.2  # share of the capital needed from which on batches are halved, not to play past the end
)
_HOPE = 1.5  # standard errors above what was seen that its true gain is given, to judge its chance


@dataclass(frozen=True)
class GateResult:
    """A verdict and the figures it rests on.

    Attributes:
      kept: the candidate replaces its parent.
      reason: why, in one line.
      n: pairs played. most: pairs there could have been. looks: batches after which it was judged.
      candidate_mean, baseline_mean: mean progression of both sides over the pairs.
      mean_difference: of candidate - baseline over the pairs.
      interval: of the true mean difference: a confidence sequence, which holds whenever one stops.
      level: chance that a candidate without an effect is kept. confidence: of the interval.
      capital: of the bettor against "no better"; the candidate is kept at 1 / level.
      bootstrap: percentile interval over the pairs, for comparison: it knows nothing of the early
        stop; None for a single pair.
      wins, losses, ties: pairs better, worse, the same. discordant: wins + losses.
      candidate_failed, baseline_failed: failed episodes, each counted at what it reached.
    """

    kept: bool
    reason: str
    n: int
    most: int
    looks: int
    candidate_mean: float
    baseline_mean: float
    mean_difference: float
    interval: tuple[float, float]
    level: float
    confidence: float
    capital: float
    bootstrap: tuple[float, float] | None
    wins: int
    losses: int
    ties: int
    discordant: int
    candidate_failed: int = 0
    baseline_failed: int = 0

    def to_data(self) -> dict[str, Any]:
        """JSON-ready fields, rounded to 6 digits so that every machine writes the same text."""
        data = dataclasses.asdict(self)
        for name, value in data.items():
            if isinstance(value, float):
                data[name] = _rounded(value)
            elif isinstance(value, tuple):
                data[name] = [_rounded(bound) for bound in value]
        return data


class Gate:
    """One candidate against its parent. Play `next_batch()` with both, hand the scores to `add`.

    The candidate is kept as soon as the lower end of the confidence sequence of the mean difference
    lies above 0. It is dropped as soon as the upper end lies below `min_gain`, or the chance to be
    kept in the pairs left, were its true gain _HOPE standard errors above what was seen, falls below
    `futility`; and when the seeds run out. Dropping early can only make a wrong keep rarer.

    Args:
      seeds: gate seeds, in the order they are played.
      level: chance of keeping a candidate without an effect.
      config: batch size, least gain of interest, least chance.

    Raises:
      ValueError: no seeds.
    """

    def __init__(self, seeds: Sequence[int], level: float, config: GateConfig | None = None):
        if not seeds:
            raise ValueError("no gate seeds; set seeds.gate to at least 2")
        self.seeds, self.config = list(seeds), config or GateConfig()
        self.bet = MeanBet(len(self.seeds), level, self.config.min_gain)
        self.looks = 0
        self.kept: bool | None = None  # None: not decided
        self.reason = ""
        self._baseline: dict[int, float] = {}
        self._candidate: dict[int, float] = {}

    def next_batch(self) -> list[int]:
        """The seeds to play next; empty once it is decided."""
        if self.kept is not None:
            return []
        size, bet = self.config.batch, self.bet
        if bet.capital * bet.level >= _NEAR:
            size = max(1, size // 2)
        return self.seeds[bet.n : bet.n + size]

    def add(self, baseline: Mapping[int, float], candidate: Mapping[int, float]) -> None:
        """Takes the progression of the next batch by seed. A candidate's missing seed counts 0.

        Raises:
          ValueError: a seed without a baseline score.
        """
        batch = self.next_batch()
        for seed in batch:
            if seed not in baseline:
                raise ValueError(
                    f"baseline has no score for gate seed {seed}; run it on all of them"
                )
            self._baseline[seed] = baseline[seed]
            self._candidate[seed] = candidate.get(seed, 0.0)
        self.bet.add(self._candidate[seed] - self._baseline[seed] for seed in batch)
        self.looks += 1
        self._decide()

    def crash(self, baseline: Mapping[int, float], reason: str) -> None:
        """The candidate broke the harness: it loses, and what it did not play counts 0."""
        if self.kept is None:
            self.add(baseline, {})
        self.kept, self.reason = False, f"crashed: {reason}"

    def result(
        self, candidate_failed: int = 0, baseline_failed: int = 0, samples: int = 10_000
    ) -> GateResult:
        """The figures so far; what is undecided is not kept. `samples`: of the bootstrap."""
        bet = self.bet
        gap = paired_difference(
            self._candidate, self._baseline, confidence=1.0 - 2.0 * bet.level, samples=samples
        )
        return GateResult(
            kept=bool(self.kept),
            reason=self.reason or f"undecided after {bet.n} of {bet.pairs} pairs",
            n=bet.n,
            most=bet.pairs,
            looks=self.looks,
            candidate_mean=mean(list(self._candidate.values())),
            baseline_mean=mean(list(self._baseline.values())),
            mean_difference=gap.mean,
            interval=bet.interval(),
            level=bet.level,
            confidence=1.0 - 2.0 * bet.level,
            capital=bet.capital,
            bootstrap=gap.interval,
            wins=gap.wins,
            losses=gap.losses,
            ties=gap.ties,
            discordant=gap.discordant,
            candidate_failed=candidate_failed,
            baseline_failed=baseline_failed,
        )

    def _decide(self) -> None:
        bet, config = self.bet, self.config
        needed = f"{1 / bet.level:.0f}-fold was needed"
        if bet.positive:
            self.kept = True
            self.reason = (
                f"no gain is ruled out: a bet against it grew {bet.capital:.0f}-fold, {needed}"
            )
        elif bet.n >= bet.pairs:
            self.kept = False
            self.reason = (
                f"no gain is not ruled out: a bet against it grew {bet.capital:.2g}-fold, {needed}"
            )
        elif bet.n < _EARLIEST_DROP:
            return
        elif bet.small:
            self.kept = False
            self.reason = f"a mean difference of {config.min_gain:+g} or more is ruled out"
        else:
            hoped = bet.mean + _HOPE * bet.sd / math.sqrt(bet.n)
            chance = bet.chance(hoped)
            if chance < config.futility:
                self.kept = False
                self.reason = (
                    f"with a true gain of {hoped:+.3f} the {bet.pairs - bet.n} pairs left would "
                    f"show it with a chance of {100 * chance:.1f} %"
                )


def judge(
    baseline: Mapping[int, float],
    candidate: Mapping[int, float],
    seeds: Sequence[int],
    *,
    level: float = 0.05,
    config: GateConfig | None = None,
    samples: int = 10_000,
    candidate_failed: int = 0,
    baseline_failed: int = 0,
    crashed: str | None = None,
) -> GateResult:
    """The verdict on scores that are already there, looked at batch by batch as `Gate` would.

    Args:
      baseline, candidate: progression by seed; what lies beyond the decision is not looked at.
      level: chance of keeping a candidate without an effect. samples: of the bootstrap.
      crashed: why the candidate's run broke off, or None.

    Raises:
      ValueError: no seeds, or a seed without a baseline score.
    """
    gate = Gate(seeds, level, config)
    if crashed is not None:
        gate.crash(baseline, crashed)
    while gate.kept is None:
        gate.add(baseline, candidate)
    return gate.result(candidate_failed, baseline_failed, samples)


def check_disjoint(seeds: SeedsConfig) -> None:
    """Raises ConfigError naming the overlap if two of the seed sets share a seed.

    A template gated on seeds it was designed on, or scored on seeds it was chosen on, looks better
    than it is.
    """
    for a, b, shared in shared_seeds(seed_sets(seeds)):
        raise ConfigError(
            f"seeds.{a} and seeds.{b} overlap in {shared.start}..{shared.stop - 1}; "
            f"move seeds.{b}_start or shrink one of them"
        )


def _rounded(value: float) -> float:
    return round(value, 6)
