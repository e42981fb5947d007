"""A run's record as a few lines: drawn in a terminal, or plain.

All texts in a record may come from models, servers and files; they are made printable here, and rich is
given Text, never markup.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from automem_jax import terminal
from automem_jax.live.record import DONE, FAILED, INTERRUPTED, KILLED, RUNNING, SILENT
from automem_jax.progress import figure

if TYPE_CHECKING:
    from rich.console import RenderableType

_BARS = "▁▂▃▄▅▆▇█"
_BAR_CELLS = 24
_STYLES = {
    RUNNING: "bold green", DONE: "green", FAILED: "bold red", KILLED: "bold red",
    INTERRUPTED: "yellow", SILENT: "bold yellow",
}  # fmt: skip
_FAILURES = ("failed calls", "retries", "broken environments")


class Display:
    """Draws a record at the foot of the terminal and lets what is printed run above it."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]]):
        self._snapshot = snapshot
        self._live: Any = None
        self._stream: terminal.ConsoleStream | None = None
        self._before: Any = None

    def open(self) -> None:
        """Begins to draw."""
        from rich.live import Live

        console = terminal.console()
        self._live = Live(
            get_renderable=lambda: render(self._snapshot()),
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._before = sys.stdout
        self._stream = terminal.ConsoleStream(console)
        sys.stdout = self._stream
        self._live.start()

    def close(self) -> None:
        """Leaves the terminal as it was, with all that was printed."""
        self._stream.end()
        self._live.stop()
        sys.stdout = self._before


def render(data: Mapping[str, Any], more: Sequence[str] = ()) -> RenderableType:
    """The record for a terminal, with plain lines below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for number, line in enumerate(lines(data, tasks=False)):
        style = _STYLES.get(str(data.get("state")), "") if number == 0 else "dim"
        parts.append(Text(line, style=style, no_wrap=True, overflow="ellipsis"))
    table = Table.grid(padding=(0, 2))
    for task in running_tasks(data):
        done, total = _int(task.get("done")), _int(task.get("total"))
        cells = min(_BAR_CELLS, _BAR_CELLS * done // total) if total else 0
        bar = Text("█" * cells, style="cyan").append("░" * (_BAR_CELLS - cells), style="dim")
        table.add_row(bar, Text(task_line(task)))
        if task.get("trend"):
            trend = Text(_trend_line(task), style="dim", no_wrap=True, overflow="ellipsis")
            table.add_row(Text(""), trend)
    parts.append(table)
    parts += [Text(terminal.printable(line), style="dim") for line in more]
    return Group(*parts)


def lines(data: Mapping[str, Any], now: float | None = None, *, tasks: bool = True) -> list[str]:
    """The record in plain lines: how the run stands, its stages, tasks, failures, what it said last."""
    now = time.time() if now is None else now
    state, one = str(data.get("state")), terminal.one_line
    until = data.get("ended") or (
        data.get("heartbeat") if state in (KILLED, SILENT) else None
    )  # the last that is known
    parts = [
        f"{one(data.get('command', '?'))}: {_said_state(data, now)}",
        f"for {seconds((until or now) - _float(data.get('began')))}",
        f"process {data.get('pid')} on {one(data.get('host', '?'))}",
    ]
    found = [", ".join(parts)]
    if data.get("error") and state == FAILED:
        found.append(f"  error: {one(data['error'])}")
    stages = [_stage(row, until or now) for row in data.get("stages") or ()]
    if stages:
        found.append("  stages: " + ", ".join(stages))
    if tasks:
        listed = running_tasks(data) if state in (RUNNING, SILENT) else []
        listed = listed or list(data.get("tasks") or ())[-1:]
        found += [f"  {task_line(task)}" for task in listed]
    if data.get("figures"):
        found.append("  " + ", ".join(f"{figure(n)} {name}" for name, n in data["figures"].items()))
    trouble = failures(data)
    if trouble:
        found.append("  failures: " + ", ".join(f"{n:,} {name}" for name, n in trouble.items()))
    if data.get("lines"):
        found.append(f"  said last: {one(data['lines'][-1])}")
    return [terminal.one_line(line) if line[:1] != " " else "  " + one(line) for line in found]


def running_tasks(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Tasks that have not ended."""
    return [task for task in data.get("tasks") or () if not task.get("ended")]


def failures(data: Mapping[str, Any]) -> dict[str, int]:
    """Failed calls, retries and broken environments of all tasks that the record has."""
    totals = dict.fromkeys(_FAILURES, 0)
    for task in data.get("tasks") or ():
        for name in _FAILURES:
            totals[name] += _int((task.get("figures") or {}).get(name))
    return {name: count for name, count in totals.items() if count}


def task_line(task: Mapping[str, Any]) -> str:
    """One task: how far, how fast, how long still, its figures."""
    done, total, unit = _int(task.get("done")), _int(task.get("total")), task.get("unit", "")
    parts = [f"{task.get('title', '?')}: {done:,}/{total:,} {unit}"]
    ended = task.get("ended")
    if ended:
        parts.append(f"{ended} in {seconds(_float(task.get('seconds')))}")
    else:
        if total:
            parts.append(f"{100 * done / total:.0f} %")
        if task.get("per_s"):
            parts.append(f"{_float(task['per_s']):.3g} {unit}/s")
        if task.get("left_s") is not None:
            parts.append(f"{seconds(_float(task['left_s']))} left")
    figures = task.get("figures") or {}
    parts += [f"{name} {figure(value)}" for name, value in figures.items() if value is not None]
    return ", ".join(map(terminal.one_line, parts))


def seconds(value: float) -> str:
    """A duration as people say it: 8 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    whole = max(0, round(value))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def sparkline(values: Sequence[float]) -> str:
    """A course of values as block characters."""
    known = [v for v in values if isinstance(v, (int, float))]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    top = len(_BARS) - 1
    return "".join(_BARS[round((v - low) / span * top) if span else 0] for v in known)


def _trend_line(task: Mapping[str, Any]) -> str:
    values = [v for v in task["trend"] if isinstance(v, (int, float))]
    name = "loss" if "loss" in (task.get("figures") or {}) else "progression"
    if not values:
        return ""
    return f"{name} {figure(float(values[0]))} {sparkline(values)} {figure(float(values[-1]))}"


def _said_state(data: Mapping[str, Any], now: float) -> str:
    age = now - _float(data.get("heartbeat"))
    state = str(data.get("state"))
    if state == KILLED:
        return f"KILLED (the process is gone; last heard of {seconds(age)} ago)"
    if state == SILENT:
        return f"SILENT (no heartbeat for {seconds(age)})"
    if state == INTERRUPTED:
        return f"interrupted ({data.get('error') or 'stopped'})"
    return state


def _stage(row: Mapping[str, Any], until: float) -> str:
    ended = row.get("ended")
    took = seconds(_float(ended or until) - _float(row.get("began")))
    return f"{row.get('name')} {took}" + ("" if ended else " so far")


def _int(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
