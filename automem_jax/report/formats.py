"""How figures are written in pages: shares as percent, intervals, times, counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNKNOWN = "-"


def percent(value: float | None, signed: bool = False) -> str:
    """A share as percent with one decimal; "-" for unknown."""
    if value is None:
        return UNKNOWN
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def interval(ends: Sequence[float] | None, signed: bool = False) -> str:
    """An interval in percent; "-" for unknown."""
    return UNKNOWN if not ends else f"[{percent(ends[0], signed)}, {percent(ends[1], signed)}]"


def hundred(ends: Sequence[float] | None) -> tuple[float, float] | None:
    """An interval of shares in percent, as numbers."""
    return (100 * ends[0], 100 * ends[1]) if ends else None


def number(value: float | None) -> str:
    """A count with separators, another number with three decimals; "-" for unknown."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def dollars(value: float | None) -> str:
    """US dollars; "-" for unknown."""
    return UNKNOWN if value is None else f"{value:,.4f}"


def seconds(value: float | None) -> str:
    """A time in the units one would say it in; "-" for unknown."""
    if value is None:
        return UNKNOWN
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def few(values: Sequence[Any]) -> str:
    """The first ten of a list."""
    shown = ", ".join(map(str, values[:10]))
    return shown if len(values) <= 10 else f"{shown}, …"


def counted(count: int, noun: str) -> str:
    """A sentence's beginning: "1 edit was", "3 edits were"."""
    return f"{count:,} {noun} was" if count == 1 else f"{count:,} {noun}s were"
