"""Keep or drop a candidate template: paired seeds, a bootstrap interval, nothing on hope."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.config import ConfigError, SeedsConfig, seed_sets, shared_seeds
from automem_jax.evaluation.statistics import mean, paired_difference


@dataclass(frozen=True)
class GateResult:
    """A verdict and the figures it rests on.

    Attributes:
      kept: the candidate replaces its parent.
      reason: why, in one line.
      n: pairs (gate seeds).
      candidate_mean, baseline_mean: mean progression of both sides.
      mean_difference, interval: of candidate - baseline over the pairs; the interval is None for a
        single pair.
      confidence: of the interval.
      wins, losses, ties: pairs better, worse, the same. discordant: wins + losses.
      candidate_failed, baseline_failed: failed episodes, each counted at what it reached.
    """

    kept: bool
    reason: str
    n: int
    candidate_mean: float
    baseline_mean: float
    mean_difference: float
    interval: tuple[float, float] | None
    confidence: float
    wins: int
    losses: int
    ties: int
    discordant: int
    candidate_failed: int = 0
    baseline_failed: int = 0

    def to_data(self) -> dict[str, Any]:
        """JSON-ready fields."""
        data = dataclasses.asdict(self)
        data["interval"] = None if self.interval is None else list(self.interval)
        return data


def judge(
    baseline: Mapping[int, float],
    candidate: Mapping[int, float],
    seeds: Sequence[int],
    *,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
    candidate_failed: int = 0,
    baseline_failed: int = 0,
    crashed: str | None = None,
) -> GateResult:
    """Compares a candidate with its parent on the gate seeds.

    Kept only if the lower end of the interval of the mean difference lies above 0, and enough pairs
    differ that chance could not have made them all point one way (see `least_discordant`; a
    bootstrap of a handful of pairs is too sure of itself). A seed the candidate has no score for
    counts 0. A template that crashed is dropped.

    Args:
      baseline, candidate: progression by seed.
      crashed: why the candidate's run broke off, or None.

    Raises:
      ValueError: no seeds, or a seed without a baseline score.
    """
    if not seeds:
        raise ValueError("no gate seeds; set seeds.gate to at least 2")
    missing = [s for s in seeds if s not in baseline]
    if missing:
        raise ValueError(f"baseline has no score for gate seed {missing[0]}; run it on all of them")
    base = {s: baseline[s] for s in seeds}
    cand = {s: candidate.get(s, 0.0) for s in seeds}
    gap = paired_difference(cand, base, confidence=confidence, samples=samples, seed=seed)
    least = least_discordant(confidence)
    if crashed is not None:
        kept, reason = False, f"crashed: {crashed}"
    elif gap.interval is None:
        kept, reason = False, "one pair cannot decide; gate on more seeds"
    elif gap.interval[0] <= 0.0:
        low = gap.interval[0]
        kept, reason = False, f"lower bound of the mean difference {low:+.4f} is not above 0"
    elif gap.discordant < least:
        kept = False
        reason = f"only {gap.discordant} pairs differ; {least} are needed to tell it from chance"
    else:
        kept, reason = True, f"lower bound of the mean difference {gap.interval[0]:+.4f} is above 0"
    return GateResult(
        kept=kept,
        reason=reason,
        n=gap.n,
        candidate_mean=mean(list(cand.values())),
        baseline_mean=mean(list(base.values())),
        mean_difference=gap.mean,
        interval=gap.interval,
        confidence=confidence,
        wins=gap.wins,
        losses=gap.losses,
        ties=gap.ties,
        discordant=gap.discordant,
        candidate_failed=candidate_failed,
        baseline_failed=baseline_failed,
    )


def least_discordant(confidence: float) -> int:
    """Fewest differing pairs that can speak at this level.

    Without an effect each differing pair is a coin toss, and all k point up with probability 2^-k;
    the smallest k with 2^-k <= (1 - confidence) / 2. 6 at 0.95.
    """
    return math.ceil(math.log2(2.0 / (1.0 - confidence)) - 1e-9)


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
