"""Progress of long work: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """Shows `done` of `total` with named figures; use as a context manager.

    In a terminal one line is redrawn in place. Elsewhere (logs, CI) a plain line is printed at most
    every `plain_every_s` seconds, and one at the end.
    """

    def __init__(self, title: str, total: int, unit: str, *, plain_every_s: float = 10.0):
        self.title, self.total, self.unit = title, total, unit
        self._plain_every_s = plain_every_s
        self.started = time.monotonic()
        self._last_plain = self.started
        self._done, self._figures = 0, {}
        self._live = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(self._line(), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def update(self, done: int, figures: Mapping[str, Any] | None = None) -> None:
        """Reports that `done` units are finished; `figures` are shown beside it."""
        self._done = done
        self._figures = dict(figures or {})
        if self._live is not None:
            self._live.update(self._line())
        elif time.monotonic() - self._last_plain >= self._plain_every_s:
            self._last_plain = time.monotonic()
            print(self._line(), flush=True)

    def __exit__(self, kind, value, traceback) -> None:
        if self._live is not None:
            self._live.stop()
        ending = "" if kind is None else "  (interrupted)"
        print(self._line() + ending, flush=True)

    def _line(self) -> str:
        elapsed = time.monotonic() - self.started
        parts = [f"{self.title}: {self._done}/{self.total} {self.unit}"]
        if 0 < self._done < self.total:
            left = elapsed / self._done * (self.total - self._done)
            parts.append(f"{left:.0f} s left")
        else:
            parts.append(f"{elapsed:.1f} s")
        parts += [f"{name} {_figure(value)}" for name, value in self._figures.items()]
        return "  ".join(parts)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
