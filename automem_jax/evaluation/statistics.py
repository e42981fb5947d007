"""Means, standard errors and bootstrap intervals of per-episode scores.

Every interval is a seeded percentile bootstrap, so the same scores give the same interval. Axis legend:
N episodes (or pairs), S bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK_INDICES = 4_000_000  # indices drawn at once: bounds memory, and is fixed so results repeat


@dataclass(frozen=True)
class Summary:
    """Location and spread of N scores.

    Attributes:
      n: how many scores.
      mean: sum / N.
      standard_error: sqrt(sum((x - mean)^2) / (N - 1)) / sqrt(N); None for N = 1, where the spread
        is unknown.
      interval: bootstrap percentile interval of the mean, (low, high); None for N = 1.
    """

    n: int
    mean: float
    standard_error: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class PairedDifference:
    """Difference a - b over the N pairs both sides share.

    Attributes:
      n: pairs.
      mean: mean of a_i - b_i.
      standard_error: standard error of the N differences (ddof = 1); None for N = 1.
      interval: bootstrap percentile interval of the mean difference; None for N = 1.
      wins, losses, ties: pairs with a > b, a < b, a == b. wins + losses are the discordant pairs:
        only they carry information.
    """

    n: int
    mean: float
    standard_error: float | None
    interval: tuple[float, float] | None
    wins: int
    losses: int
    ties: int

    @property
    def discordant(self) -> int:
        """Pairs whose two scores differ."""
        return self.wins + self.losses


def mean(scores: Sequence[float]) -> float:
    """Arithmetic mean.

    Raises:
      ValueError: no scores, or a score that is not finite.
    """
    return float(_checked(scores).mean())


def standard_error(scores: Sequence[float]) -> float | None:
    """Standard error of the mean: s / sqrt(N), with s^2 = sum((x - mean)^2) / (N - 1).

    None for one score (its spread is unknown, not zero); 0.0 where all N > 1 scores are equal.
    """
    array = _checked(scores)
    if array.size == 1:
        return None
    return float(array.std(ddof=1) / np.sqrt(array.size))


def bootstrap_interval(
    scores: Sequence[float], *, confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the mean under resampling with replacement.

    Draws S resamples of N scores, takes each one's mean, and returns the (1 - confidence) / 2 and
    1 - (1 - confidence) / 2 quantiles of the S means (linear interpolation).

    Returns:
      (low, high); (x, x) where all scores equal x; None for one score, from which no spread can
      be learnt.

    Raises:
      ValueError: no scores, confidence outside (0, 1), or samples < 1.
    """
    array = _checked(scores)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it must lie strictly between 0 and 1")
    if samples < 1:
        raise ValueError(f"samples is {samples}; a bootstrap needs at least 1")
    if array.size == 1:
        return None
    if np.all(array == array[0]):
        return float(array[0]), float(array[0])
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_INDICES // array.size)
    means = np.empty(samples)
    for start in range(0, samples, rows):
        stop = min(samples, start + rows)
        picks = rng.integers(array.size, size=(stop - start, array.size), dtype=np.int32)
        means[start:stop] = array[picks].mean(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def summarise_scores(
    scores: Sequence[float], *, confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> Summary:
    """Mean, standard error and bootstrap interval of one arm's scores."""
    return Summary(
        n=len(scores),
        mean=mean(scores),
        standard_error=standard_error(scores),
        interval=bootstrap_interval(scores, confidence=confidence, samples=samples, seed=seed),
    )


def paired_difference(
    a: Mapping[Hashable, float],
    b: Mapping[Hashable, float],
    *,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compares two arms seed by seed: d_i = a_i - b_i over the keys both hold.

    Pairing removes what a seed's difficulty adds to both sides. The pairs, not the scores, are
    resampled.

    Raises:
      ValueError: the two sides share no key.
    """
    keys = [key for key in a if key in b]
    if not keys:
        raise ValueError("the two arms share no seed; run both on the same seeds to compare them")
    keys.sort(key=repr)  # the interval must not depend on the order episodes were read in
    differences = np.asarray([a[key] - b[key] for key in keys], dtype=np.float64)
    return PairedDifference(
        n=len(keys),
        mean=mean(differences),
        standard_error=standard_error(differences),
        interval=bootstrap_interval(differences, confidence=confidence, samples=samples, seed=seed),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )


def _checked(scores: Sequence[float]) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"expected at least one score in one dimension, got shape {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"score {int(np.argmin(np.isfinite(array)))} is not finite")
    return array
