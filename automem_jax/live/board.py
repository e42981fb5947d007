"""One run's stages, tasks and lines: shown in the terminal, recorded on disk, logged to trackers."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from automem_jax import terminal
from automem_jax.live import record as records
from automem_jax.live.tracking import Tracker, standard
from automem_jax.progress import Progress

_TRACK_EVERY_S = 1.0
PREEMPTED, TERMINATED = 75, 143  # exit statuses of a run that stopped on SIGTERM


class Board:
    """Use as a context manager: from its first stage on the run has a record, and a dashboard in a terminal.

    Closed, or where `speaks` is false (all processes but the first of several), it shows progress as
    plain `Progress` does and writes nothing.

    Args:
      workdir: has the record. command: what the user called.
      trackers: take figures, texts and pictures. usage: what servers were asked since the last stage
        ended, by model, JSON-ready. figures: of a command that has no tasks. draw: a dashboard, in a
        terminal.
    """

    def __init__(
        self,
        workdir: str | Path,
        command: str,
        *,
        trackers: Sequence[Tracker] = (),
        usage: Callable[[], dict[str, Any]] | None = None,
        figures: Callable[[], dict[str, Any]] | None = None,
        speaks: bool = True,
        draw: bool = True,
    ):
        self.workdir, self.command, self.speaks = Path(workdir), command, speaks
        self.trackers = list(trackers) if speaks else []
        self._usage, self._figures, self._draw = usage or dict, figures or dict, draw
        self._open = False
        self._record: records.Record | None = None
        self._display: Any = None
        self._tasks: dict[int, tuple[Progress, dict[str, Any]]] = {}
        self._steps: dict[str, int] = {}  # of a tracked run, in earlier tasks of this process
        self._tracked: dict[int, tuple[float, int]] = {}  # task -> when and at which step last

    @property
    def draws(self) -> bool:
        """Whether a dashboard is up."""
        return self._display is not None

    def __enter__(self) -> Board:
        self._open = True
        return self

    def _begin(self) -> None:
        """Opens record and dashboard with the first stage: a command that is refused leaves none."""
        self._record = records.Record(self.workdir, self.command, self._refresh)
        self._record.open()
        if self._draw and sys.stdout.isatty():
            from automem_jax.live.dashboard import Display

            self._display = Display(self.snapshot)
            self._display.open()

    def __exit__(self, kind, value, traceback) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None
        for tracker in self.trackers:
            tracker.close()
        if self._record is not None:
            self._record.close(*_ending(value))
        self._open, self._record = False, None

    def snapshot(self) -> dict[str, Any]:
        """The record as it stands now."""
        with self._record.lock:
            self._refresh()
            return self._record.data | {"heartbeat": time.time()}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """While it is open, tasks belong to this stage."""
        row = {"name": name, "began": time.time(), "ended": None}
        with self._changing() as data:
            data["stages"].append(row)
        try:
            yield
        finally:
            with self._changing():
                row["ended"] = time.time()

    def task(self, title: str, total: int, unit: str, done: int = 0) -> Progress:
        """A task of the stage under way, to be used as a context manager."""
        return Progress(title, total, unit, done=done, watcher=self)

    def say(self, line: str) -> None:
        """Prints a line, and keeps it among the last ones of the record."""
        print(line, flush=True)
        with self._changing() as data:
            data["lines"].append(terminal.one_line(line))

    def text(self, run: str, tag: str, text: str) -> None:
        """Gives trackers a text, shown as it is."""
        for tracker in self.trackers:
            tracker.text(run, tag, text)

    def image(self, run: str, tag: str, picture: Any) -> None:
        """Gives trackers an RGB picture, uint8 [height, width, 3]."""
        for tracker in self.trackers:
            tracker.image(run, tag, picture)

    # As the watcher of its tasks.

    def begin(self, progress: Progress) -> None:
        """See progress.Watcher."""
        with self._changing() as data:
            stage = data["stages"][-1]["name"] if data["stages"] else ""
            row: dict[str, Any] = {"stage": stage, "title": terminal.one_line(progress.title)}
            data["tasks"].append(row)
            self._tasks[id(progress)] = progress, row
            self._fill(progress, row)

    def changed(self, progress: Progress) -> None:
        """See progress.Watcher."""
        if self._record is not None:
            self._record.changed()
        if self.trackers and id(progress) in self._tasks:
            self._track(progress)

    def end(self, progress: Progress) -> None:
        """See progress.Watcher."""
        with self._changing():
            _, row = self._tasks.pop(id(progress), (progress, {}))
            self._fill(progress, row)
        # Not under the lock: a tracker may print, and what is drawn then wants the lock too.
        if self.trackers and row.get("stage") is not None:
            run = self._track(progress, row, last=True)
            self._tracked.pop(id(progress), None)
            if progress.unit != "steps":  # steps of training are absolute
                self._steps[run] = self._steps.get(run, 0) + progress.done

    def _track(self, progress: Progress, row: dict[str, Any] | None = None, last=False) -> str:
        row = row or self._tasks[id(progress)][1]
        title = row["title"].removeprefix("rollout ").removeprefix("train ")
        run = "/".join(part for part in (row["stage"], title) if part)
        when, step = self._tracked.get(id(progress), (0.0, -1))
        steps = (
            progress.unit == "steps"
        )  # each step counts; of episodes a figure a second is enough
        due = progress.done != step and (last or steps or time.monotonic() - when >= _TRACK_EVERY_S)
        if due:
            self._tracked[id(progress)] = time.monotonic(), progress.done
            figures = standard(progress.tracked or progress.figures, training=steps)
            before = 0 if steps else self._steps.get(run, 0)
            for tracker in self.trackers:
                tracker.scalars(run, before + progress.done, figures)
        return run

    def _refresh(self) -> None:
        data = self._record.data
        for progress, row in list(self._tasks.values()):
            self._fill(progress, row)
        data["usage"], data["figures"] = self._usage(), self._figures()

    def _fill(self, progress: Progress, row: dict[str, Any]) -> None:
        """What a record says of a task: how far it is, how fast, and its figures."""
        left, per_s = progress.left_s, progress.per_s
        row |= {
            "unit": progress.unit,
            "done": progress.done,
            "total": progress.total,
            "seconds": round(progress.elapsed_s, 2),
            "per_s": None if per_s is None else round(per_s, 4),
            "left_s": None if left is None else round(left, 1),
            "figures": {name: _number(value) for name, value in dict(progress.figures).items()},
            "trend": [_number(value) for value in list(progress.trend)],
            "ended": progress.ended,
        }

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The record's data under its lock; a dummy while there is none."""
        if self._record is None:
            if not (self._open and self.speaks):
                yield {"stages": [], "tasks": [], "lines": []}
                return
            self._begin()
        with self._record.lock:
            yield self._record.data
        self._record.changed()


def _number(value: Any) -> Any:
    """JSON knows no infinity, and a record no more digits than are of use."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else None
    return value if isinstance(value, (int, str)) else float(value)


def _ending(error: BaseException | None) -> tuple[str, str]:
    """State and message of a run that ended with this exception, or none."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return records.DONE, ""
    if isinstance(error, KeyboardInterrupt):
        return records.INTERRUPTED, "Ctrl-C"
    if isinstance(error, SystemExit):
        if error.code in (PREEMPTED, TERMINATED):
            return records.INTERRUPTED, "SIGTERM"
        return records.FAILED, f"exit status {error.code}"
    return records.FAILED, terminal.one_line(error)[:500] or type(error).__name__
