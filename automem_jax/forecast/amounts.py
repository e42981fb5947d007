"""Ranges of amounts: low, expected, high."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Three numbers, low <= expected <= high. Sums and products take like with like.

    So a sum's ends are reached only where all of its parts reach theirs.
    """

    low: float
    expected: float
    high: float

    @classmethod
    def of(cls, value: Range | float) -> Range:
        """A number as a range without width; a range as it is."""
        return value if isinstance(value, Range) else cls(value, value, value)

    def __add__(self, other: Range | float) -> Range:
        other = Range.of(other)
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        other = Range.of(other)
        return Range(self.low * other.low, self.expected * other.expected, self.high * other.high)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Range | float) -> Range:
        """A quotient of positive ranges: the low end has the high divisor."""
        other = Range.of(other)
        return Range(self.low / other.high, self.expected / other.expected, self.high / other.low)

    def at_most(self, cap: float) -> Range:
        """Each of the three, or the cap."""
        return Range(min(self.low, cap), min(self.expected, cap), min(self.high, cap))

    def wider(self, factor: float) -> Range:
        """Ends moved away by a factor."""
        return Range(self.low / factor, self.expected, self.high * factor)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def between(least: float, cap: float) -> Range:
    """Of a mean that lies somewhere from `least` to `cap`: low is `least`, expected the geometric mean of
    both, high that of expected and `cap` (a mean at the cap would have every single one there)."""
    least = max(least, 1e-9)
    cap = max(cap, least)
    expected = math.sqrt(least * cap)
    return Range(least, expected, math.sqrt(expected * cap))


@dataclass(frozen=True)
class Amounts:
    """What a stage takes; None: not known.

    Attributes:
      prompt_tokens, generated_tokens: of all model calls. trained_tokens: rows times their length, padding
        included, as the accelerator computes them. dollars: of servers. accelerator_hours: chips times
        hours. seconds: on the clock.
    """

    episodes: Range | None = None
    calls: Range | None = None
    prompt_tokens: Range | None = None
    generated_tokens: Range | None = None
    trained_tokens: Range | None = None
    dollars: Range | None = None
    accelerator_hours: Range | None = None
    seconds: Range | None = None

    def __add__(self, other: Amounts) -> Amounts:
        """The sum; what is known of one alone counts."""
        total = {}
        for name in QUANTITIES:
            parts = [
                part for part in (getattr(self, name), getattr(other, name)) if part is not None
            ]
            total[name] = sum(parts[1:], parts[0]) if parts else None
        return Amounts(**total)

    def to_data(self) -> dict[str, dict[str, float] | None]:
        """JSON-ready: low, expected and high of every quantity."""
        found: dict[str, Any] = {}
        for name in QUANTITIES:
            value = getattr(self, name)
            digits = 6 if name in ("dollars", "accelerator_hours", "seconds") else None
            ends = {} if value is None else dataclasses.asdict(value)
            found[name] = {end: round(n, digits) for end, n in ends.items()} or None
        return found


QUANTITIES = tuple(field.name for field in dataclasses.fields(Amounts))
