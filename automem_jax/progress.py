"""Progress of long work: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from automem_jax import terminal

_RATE_SAMPLES = 30
_TREND_POINTS = 48
_TRENDS = ("loss", "progression")  # figures whose course is worth a look


class Watcher(Protocol):
    """Told how a Progress goes on, from the thread that does the work."""

    draws: bool  # it draws by itself, so that the Progress must not

    def begin(self, progress: Progress) -> None:
        """Work has begun."""

    def changed(self, progress: Progress) -> None:
        """More is done; called often."""

    def end(self, progress: Progress) -> None:
        """Work has ended; `progress.ended` says how."""


class Progress:
    """Shows `done` of `total` with named figures; use as a context manager.

    In a terminal one line is redrawn in place. Elsewhere (logs, CI) a plain line is printed at most
    every `plain_every_s` seconds, and one at the end.

    Attributes:
      done: units finished. figures: the last ones given. tracked: those that are logged and not shown.
      ended: "" while it goes on, then "done" or "interrupted".
      trend: the course of a figure worth watching, in at most _TREND_POINTS points.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        *,
        plain_every_s: float = 10.0,
        done: int = 0,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`done` units were finished before, by a run that this one goes on from."""
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.figures: dict[str, Any] = {}
        self.tracked: dict[str, float] = {}
        self.ended = ""
        self.trend: list[float] = []
        self._plain_every_s, self._watcher, self._clock = plain_every_s, watcher, clock
        self.started = clock()
        self._last_plain = self.started
        self._seen: deque[tuple[float, int]] = deque([(self.started, done)], maxlen=_RATE_SAMPLES)
        self._stride, self._updates = 1, 0
        self._live = None

    def __enter__(self) -> Progress:
        if self._watcher is not None:
            self._watcher.begin(self)
        if sys.stdout.isatty() and not (self._watcher and self._watcher.draws):
            from rich.live import Live

            self._live = Live(
                self._line(),
                console=terminal.console(),
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def update(
        self,
        done: int,
        figures: Mapping[str, Any] | None = None,
        tracked: Mapping[str, float] | None = None,
    ) -> None:
        """Reports that `done` units are finished; `figures` are shown beside it, `tracked` are not."""
        self.done, self.figures = done, dict(figures or {})
        self.tracked = dict(tracked or {})
        now = self._clock()
        if now - self._seen[-1][0] >= 1.0:
            self._seen.append((now, done))
        self._add_to_trend()
        if self._watcher is not None:
            self._watcher.changed(self)
        if self._live is not None:
            self._live.update(self._line())
        elif not self._drawn() and now - self._last_plain >= self._plain_every_s:
            self._last_plain = now
            print(self._line(), flush=True)

    def __exit__(self, kind, value, traceback) -> None:
        self.ended = "done" if kind is None else "interrupted"
        if self._live is not None:
            self._live.stop()
        if self._watcher is not None:
            self._watcher.end(self)
        print(self._line() + ("" if kind is None else "  (interrupted)"), flush=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self.started

    @property
    def per_s(self) -> float | None:
        """Units a second lately; None while there is nothing to go by."""
        first_time, first_done = self._seen[0]
        seconds, units = self._clock() - first_time, self.done - first_done
        return units / seconds if units > 0 and seconds > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds to go at this speed; None while there is nothing to go by."""
        if self.done >= self.total:
            return 0.0
        return None if self.per_s is None else (self.total - self.done) / self.per_s

    def _add_to_trend(self) -> None:
        value = next((self.figures[name] for name in _TRENDS if name in self.figures), None)
        if not isinstance(value, (int, float)):
            return
        if self._updates % self._stride == 0:
            self.trend.append(float(value))
        self._updates += 1
        if len(self.trend) > _TREND_POINTS:  # every second point, and half as many from now on
            self.trend = self.trend[::2]
            self._stride *= 2

    def _drawn(self) -> bool:
        return self._watcher is not None and self._watcher.draws

    def _line(self) -> str:
        parts = [f"{self.title}: {self.done}/{self.total} {self.unit}"]
        left = None if self.ended else self.left_s
        parts.append(f"{left:.0f} s left" if left else f"{self.elapsed_s:.1f} s")
        parts += [f"{name} {figure(value)}" for name, value in self.figures.items()]
        return "  ".join(map(terminal.one_line, parts))


def figure(value: Any) -> str:
    """A number or a word as progress shows it."""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
