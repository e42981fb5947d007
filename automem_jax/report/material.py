"""What the stages left in a work directory, read for the report.

Nothing here fails on a missing or damaged file: the first is no data yet, the second is listed in
`problems`, and the page shows both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from automem_jax.provenance import COMMANDS_FILE
from automem_jax.report.data import DataFiles
from automem_jax.traces.schema import Trace, TraceError
from automem_jax.traces.store import list_traces, read_ends, read_trace

EXAMPLES_SHOWN = 4


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is named and drawn; `colour` is a variable of page.css."""

    name: str
    title: str
    colour: str
    marker: str


# The fixed order of arms; what a run adds comes after them.
_ARMS = (
    ArmStyle("base_v0", "base + v0", "--arm-v0", "o"),
    ArmStyle("base_best", "base + best template", "--arm-best", "s"),
    ArmStyle("specialist_best", "specialist + best template", "--arm-specialist", "D"),
    ArmStyle("control_best", "random control + best template", "--arm-control", "^"),
)
_BASELINES = (
    ArmStyle("window", "no memory: window", "--arm-other", "v"),
    ArmStyle("window_cot", "no memory: window, reasoning first", "--arm-other", "<"),
)
_SELECTED_BY = "specialist_on_"  # followed by a selection's name
V0, BEST, SPECIALIST, CONTROL = (arm.name for arm in _ARMS)

# Names of the two selections and trainings, in the order shown, and the arm each stands for.
KIND_ARMS = {"lineage": SPECIALIST, "random": CONTROL}


def arm_style(name: str) -> ArmStyle:
    """The style of an arm; an unknown one is named as it is and drawn in the spare colour."""
    known = {arm.name: arm for arm in (*_ARMS, *_BASELINES)}
    title = name
    if name.startswith(_SELECTED_BY):
        title = f"specialist on {name.removeprefix(_SELECTED_BY).replace('-', ' ')}"
    return known.get(name) or ArmStyle(name, title, "--arm-other", "v")


def kind_style(kind: str) -> ArmStyle:
    """The style of a selection's or training's kind."""
    return arm_style(KIND_ARMS.get(kind, kind))


@dataclass(frozen=True)
class Selection:
    """One selection: its report and its first few examples."""

    report: dict[str, Any]
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class Training:
    """One training: a row a step, and done.json where it has finished."""

    metrics: list[dict[str, Any]]
    done: dict[str, Any] | None


@dataclass(frozen=True)
class Group:
    """Token counts of the finished traces in one directory."""

    name: str
    episodes: int
    steps: int
    tokens: dict[str, int]


@dataclass
class Material:
    """Everything a report is made of; None and empty mean that a stage has not run yet."""

    workdir: Path
    config: dict[str, Any] | None = None
    results: dict[str, Any] | None = None
    ledger: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    selections: dict[str, Selection] = field(default_factory=dict)
    trainings: dict[str, Training] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    header: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    attribution: dict[str, Any] | None = None
    recipes: list[dict[str, Any]] = field(default_factory=list)
    online: dict[str, Any] | None = None
    forecast: dict[str, Any] | None = None
    commands: list[dict[str, Any]] = field(default_factory=list)
    data: DataFiles = field(default_factory=DataFiles)
    problems: list[str] = field(default_factory=list)

    def arms(self) -> dict[str, dict[str, Any]]:
        """Results by arm, in the fixed order."""
        arms = (self.results or {}).get("arms", {})
        order = [arm.name for arm in _ARMS]
        names = [n for n in order if n in arms] + [n for n in arms if n not in order]
        return {name: arms[name] for name in names}

    def level(self) -> str:
        """The level of the results' intervals in words, "95 %"."""
        confidence = (self.results or {}).get("confidence")
        if confidence is None:
            confidence = ((self.config or {}).get("evaluation") or {}).get("confidence", 0.95)
        return f"{100 * confidence:g} %"

    def difference(self, arm: str, baseline: str) -> dict[str, Any] | None:
        """The paired difference arm - baseline, turned round where it was taken the other way."""
        for row in (self.results or {}).get("paired_differences", []):
            if (row["arm"], row["baseline"]) == (arm, baseline):
                return row
            if (row["arm"], row["baseline"]) == (baseline, arm):
                low_high = row["interval"]
                return row | {
                    "arm": arm,
                    "baseline": baseline,
                    "mean": -row["mean"],
                    "interval": [-low_high[1], -low_high[0]] if low_high else None,
                    "wins": row["losses"],
                    "losses": row["wins"],
                }
        return None

    def read(self, name: str) -> Any:
        """A JSON file of the work directory; None where there is none or it cannot be read."""
        path = self.workdir / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.problems.append(f"{name}: {error}")
            return None

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Rows of a JSONL file; a last line torn by a kill is left out, another bad line is a problem."""
        try:
            data = (self.workdir / name).read_bytes()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self.problems.append(f"{name}: {error}")
            return
        *lines, torn = data.split(b"\n")
        for number, line in enumerate([*lines, torn], 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("expected a JSON object")
                yield row
            except ValueError as error:
                if line is not torn:
                    self.problems.append(f"{name}:{number}: {error}")


def read_material(workdir: Path) -> Material:
    """Reads a work directory; traces are read only at their first and last lines."""
    found = Material(workdir)
    found.config = _mapping(found, "config.json")
    found.results = _mapping(found, "results.json")
    found.best = _mapping(found, "evolve/best.json")
    found.ledger = list(found.lines("evolve/ledger.jsonl"))
    timing = _mapping(found, "timing.json") or {}
    found.timing = dict(timing.get("stages") or {})
    found.usage = _mapping(found, "usage.json")
    found.attribution = _mapping(found, "attribution.json")
    found.recipes = list(found.lines("recipes/ledger.jsonl"))
    found.online = _mapping(found, "online.json")
    found.forecast = _mapping(found, "forecast.json")
    found.commands = list(found.lines(COMMANDS_FILE))
    for kind in _kinds(workdir / "select"):
        report = _mapping(found, f"select/{kind}/selection.json")
        if report is not None:
            examples = islice(found.lines(f"select/{kind}/examples.jsonl"), EXAMPLES_SHOWN * 50)
            found.selections[kind] = Selection(report, _varied(examples))
    for kind in _kinds(workdir / "train"):
        metrics = list(found.lines(f"train/{kind}/metrics.jsonl"))
        done = _mapping(found, f"train/{kind}/done.json")
        if metrics or done:
            found.trainings[kind] = Training(metrics, done)
    _read_groups(found)
    return found


def readable_traces(material: Material, directory: Path) -> Iterator[tuple[Path, Trace]]:
    """Finished traces under a directory; one that cannot be read becomes a problem."""
    for path in list_traces(directory):
        try:
            yield path, read_trace(path)
        except (TraceError, OSError) as error:
            material.problems.append(str(error))


def _mapping(found: Material, name: str) -> dict[str, Any] | None:
    value = found.read(name)
    if value is not None and not isinstance(value, dict):
        found.problems.append(f"{name}: expected a JSON object")
        return None
    return value


def _kinds(directory: Path) -> list[str]:
    names = [p.name for p in directory.iterdir() if p.is_dir()] if directory.is_dir() else []
    order = list(KIND_ARMS)
    return [n for n in order if n in names] + sorted(n for n in names if n not in order)


def _varied(examples: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few examples in which phases alternate and no text comes twice, as far as there are such."""
    by_phase: dict[str, list[dict[str, Any]]] = {}
    seen = set()
    for example in examples:
        text = str(example.get("messages", [{}])[-1:])
        if text not in seen:
            seen.add(text)
            by_phase.setdefault(str(example.get("phase")), []).append(example)
    turns = [row for rank in range(EXAMPLES_SHOWN) for row in _column(by_phase, rank)]
    return turns[:EXAMPLES_SHOWN]


def _column(by_phase: Mapping[str, list], rank: int) -> list[dict[str, Any]]:
    return [rows[rank] for rows in by_phase.values() if rank < len(rows)]


def _read_groups(found: Material) -> None:
    root = found.workdir / "traces"
    totals: dict[str, dict[str, int]] = {}
    for path in list_traces(root):
        group = path.parent.relative_to(root).as_posix()
        try:
            header, end = read_ends(path)
            found.header = found.header or header
            counts = {
                name: int(end["tokens"].get(name, 0)) for name in ("prompt", "completion", "calls")
            }
            counts |= {"episodes": 1, "steps": int(end["steps"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            found.problems.append(
                f"{path.relative_to(found.workdir)}: no readable end record ({error})"
            )
            continue
        total = totals.setdefault(group, dict.fromkeys(counts, 0))
        for name, count in counts.items():
            total[name] += count
    for group, total in totals.items():
        episodes, steps = total.pop("episodes"), total.pop("steps")
        found.groups.append(Group(group, episodes, steps, total))
