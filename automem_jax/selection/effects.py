"""What measured continuations say a decision was worth: estimate, interval, and whether it is clear.

A continuation's progression is bounded, often 0 or 1, and there are few of them, so the plain interval
of a mean fails: eight equal differences have no spread at all. As Agresti and Min (2005) do for matched
pairs, four halves are added first: half a pair that differs by +scale, half one by -scale and one that
does not differ. The interval is that of Student's t over pairs and additions together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ADDED = 2.0  # pairs: half one up, half one down, one even


@dataclass(frozen=True)
class Effect:
    """A decision's worth in progression.

    Attributes:
      value: mean of the paired differences, unbiased.
      low, high: interval at the confidence asked for; always holds `value`.
      pairs: how many differences it rests on.
    """

    value: float
    low: float
    high: float
    pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def effect(
    as_was: Sequence[float],
    altered: Sequence[float],
    *,
    scale: float = 1.0,
    confidence: float = 0.95,
) -> Effect | None:
    """The effect of a decision; None without pairs.

    Args:
      as_was, altered: progressions of the two sides, continuation by continuation.
      scale: the largest difference a decision of this task can be expected to make.
    """
    differences = [a - b for a, b in zip(as_was, altered, strict=True)]
    if not differences:
        return None
    from scipy.special import stdtrit

    count = len(differences)
    value = math.fsum(differences) / count
    n = count + _ADDED
    mean = math.fsum(differences) / n
    squares = math.fsum(d * d for d in differences) + scale * scale
    variance = max(0.0, squares / n - mean * mean)
    reach = float(stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance / n)
    return Effect(value, min(value, mean - reach), max(value, mean + reach), count)


def effect_scale(rows: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The largest difference between any pair of a task's measured decisions; 1 where none differs."""
    largest = max(
        (abs(a - b) for as_was, altered in rows for a, b in zip(as_was, altered, strict=True)),
        default=0.0,
    )
    return largest or 1.0
