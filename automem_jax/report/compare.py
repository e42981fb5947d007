"""Several work directories on one page: arms side by side, paired where tasks and seeds are the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from automem_jax.evaluation.results import ResultsError
from automem_jax.evaluation.statistics import PairedDifference, paired_difference
from automem_jax.files import write_atomically
from automem_jax.report.cost import spent
from automem_jax.report.data import SCORES, DataFiles, data_folder, scores
from automem_jax.report.figures import Point, dot_plot
from automem_jax.report.formats import dollars, hundred, interval, number, percent, seconds
from automem_jax.report.material import Material, arm_style, read_material
from automem_jax.report.page import Html, details, join, missing, page, paragraph, table, tag

_MOST_SETTINGS = 60
_PLACES = ("workdir", "name")  # of a configuration, and no difference


@dataclass(frozen=True)
class Compared:
    """One work directory: its name on the page, and what it holds."""

    name: str
    material: Material


@dataclass(frozen=True)
class Difference:
    """An arm of one directory against the same arm of the first, on the seeds that both played."""

    arm: str
    name: str
    against: str
    paired: PairedDifference


def read_compared(workdirs: Sequence[str | os.PathLike]) -> list[Compared]:
    """Work directories under names that tell them apart.

    Raises:
      ResultsError: fewer than two, one twice, or one without results.
    """
    paths = [Path(workdir).resolve() for workdir in workdirs]
    if len(paths) < 2 or len(set(paths)) < len(paths):
        given = ", ".join(map(str, workdirs)) or "none"
        raise ResultsError(f"compare takes two different work directories or more, got {given}")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        root = os.path.commonpath(paths)
        names = [str(path.relative_to(root)) for path in paths]
    found = []
    for name, path in zip(names, paths, strict=True):
        material = read_material(path)
        if not material.arms():
            raise ResultsError(
                f"{path} holds no results.json with arms; run `automem evaluate` there first"
            )
        found.append(Compared(name, material))
    return found


def differences(compared: Sequence[Compared]) -> list[Difference]:
    """Every arm of the further directories against the first's, where they share episodes."""
    first = compared[0]
    settings = _bootstrap(first.material)
    found = []
    for arm, baseline in first.material.arms().items():
        before = _by_episode(baseline)
        for other in compared[1:]:
            after = _by_episode(other.material.arms().get(arm, {}))
            if before.keys() & after.keys():
                paired = paired_difference(after, before, **settings)
                found.append(Difference(arm, other.name, first.name, paired))
    return found


def write_comparison(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike) -> Path:
    """Writes the page, and its figures' numbers in a folder beside it.

    Raises:
      ResultsError: see `read_compared`.
    """
    compared, out = read_compared(workdirs), Path(out)
    data = DataFiles(data_folder(out))
    paired = differences(compared)
    sections = [
        (
            "scores",
            "Scores",
            join(
                [_verdicts(compared, paired), _warnings(compared, paired), _scores(compared, data)]
            ),
        ),
        ("differences", "Differences", _differences(compared, paired, data)),
        ("behaviour", "Behaviour", _behaviour(compared)),
        ("cost", "Cost", _cost(compared, data)),
        ("settings", "Settings", _settings(compared)),
    ]
    names = ", ".join(one.name for one in compared)
    title = f"AutoMem comparison: {names}"
    data.write(out)
    about = paragraph(f"The others are held against {compared[0].name}.", cls="quiet")
    write_atomically(out, page(title, about, sections))
    return out


def arm_rows(compared: Sequence[Compared]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(arm, directory, figures) arm by arm, directories in the order given."""
    arms = dict.fromkeys(arm for one in compared for arm in one.material.arms())
    return [
        (arm, one.name, one.material.arms()[arm])
        for arm in arms
        for one in compared
        if arm in one.material.arms()
    ]


def _bootstrap(material: Material) -> dict[str, Any]:
    results = material.results or {}
    return {
        "confidence": results.get("confidence", 0.95),
        "samples": results.get("bootstrap_samples", 10_000),
        "seed": results.get("bootstrap_seed", 0),
    }


def _by_episode(arm: Mapping[str, Any]) -> dict[tuple[str, int], float]:
    return {(e["task"], e["seed"]): e["progression"] for e in arm.get("episodes", ())}


def _verdicts(compared: Sequence[Compared], paired: Sequence[Difference]) -> Html:
    """One sentence a directory: which arms are better or worse than the first's, beyond their interval."""
    parts = []
    for other in compared[1:]:
        told = []
        for one in paired:
            ends = one.paired.interval
            if one.name == other.name and ends and (ends[0] > 0 or ends[1] < 0):
                points = f"{percent(one.paired.mean, True)} points {interval(ends, True)}"
                told.append(f"{arm_style(one.arm).title} {points}, {one.paired.n} pairs")
        said = "; ".join(told) or "no arm whose interval excludes 0"
        said += f" (against {compared[0].name})."
        parts.append(paragraph(tag("strong", f"{other.name}: "), said, cls="lead"))
    return join(parts)


def _warnings(compared: Sequence[Compared], paired: Sequence[Difference]) -> Html:
    """What a reader must know before trusting a comparison."""
    told = []
    for words, values in (
        ("tasks", [_task(one.material) for one in compared]),
        ("base weights", [(one.material.results or {}).get("base_hash") for one in compared]),
    ):
        if len(set(values)) > 1:
            told.append(
                f"The directories differ in their {words}: a difference may be due to that."
            )
    partial = {
        (d.name, d.paired.n)
        for d in paired
        for one in compared
        if d.paired.n < one.material.arms().get(d.arm, {"n": 0})["n"]
    }
    for name, n in sorted(partial):
        told.append(
            f"{name}: only {n} episodes are paired; the others were played on one side only."
        )
    problems = [f"{one.name}: {p}" for one in compared for p in one.material.problems]
    return join(paragraph(text, cls="warning") for text in [*told, *problems[:10]])


def _task(material: Material) -> tuple[Any, Any]:
    results = material.results or {}
    return results.get("env"), results.get("task")


def _scores(compared: Sequence[Compared], data: DataFiles) -> Html:
    groups: dict[str, list[Point]] = {}
    rows = []
    for arm, name, figures in arm_rows(compared):
        style = arm_style(arm)
        ends = figures.get("interval")
        note = f"{percent(figures['mean'])} %"
        point = Point(
            name, 100 * figures["mean"], hundred(ends), style.colour, style.marker, note=note
        )
        groups.setdefault(style.title, []).append(point)
        error = percent(figures.get("standard_error"))
        rows.append(
            (style.title, name, figures["n"], percent(figures["mean"]), error, interval(ends))
        )
    level = compared[0].material.level()
    figure = dot_plot(
        "scores",
        groups,
        "progression on held-out seeds, % (mean)",
        f"Progression of every arm in every directory, with {level} bootstrap intervals.",
        limits=(-2, 102),
    )
    columns = ("arm", "workdir", *SCORES)
    links = data.keep(
        "scores", columns, [(arm, name, *scores(a)) for arm, name, a in arm_rows(compared)]
    )
    head = ("arm", "directory", "episodes", "mean %", "± SE", f"{level} interval")
    return join([figure, links, table(head, rows, "Progression on held-out seeds")])


def _differences(
    compared: Sequence[Compared], paired: Sequence[Difference], data: DataFiles
) -> Html:
    if not paired:
        return missing(
            "No arm is in the first directory and another one on the same task and seed."
        )
    groups: dict[str, list[Point]] = {}
    rows = []
    for one in paired:
        style, d = arm_style(one.arm), one.paired
        change = percent(d.mean, True)
        point = Point(
            f"{one.name} − {one.against}", 100 * d.mean, hundred(d.interval), style.colour,
            style.marker, note=change,
        )  # fmt: skip
        groups.setdefault(style.title, []).append(point)
        won = f"{d.wins} / {d.losses} / {d.ties}"
        ends = interval(d.interval, True)
        rows.append((style.title, one.name, d.n, change, percent(d.standard_error), ends, won))
    level = compared[0].material.level()
    figure = dot_plot(
        "differences",
        groups,
        "paired difference in progression, percentage points",
        f"Each arm against the same arm of {compared[0].name}, on the task and seeds that both played, "
        f"with {level} bootstrap intervals; right of the line is better than there.",
        zero_line=True,
    )
    columns = ("arm", "workdir", "against", *SCORES, "better", "worse", "same")
    links = data.keep(
        "differences",
        columns,
        [
            (d.arm, d.name, d.against, *scores(asdict(d.paired)), *_won(d.paired))
            for d in paired
        ],
    )  # fmt: skip
    won = "better / worse / same"
    head = ("arm", "directory", "pairs", "points", "± SE", f"{level} interval", won)
    return join([figure, links, table(head, rows, f"Paired differences to {compared[0].name}")])


def _won(paired: PairedDifference) -> tuple[int, int, int]:
    return paired.wins, paired.losses, paired.ties


def _behaviour(compared: Sequence[Compared]) -> Html:
    from automem_jax.report.sections import behaviour_rows

    parts = []
    arms = dict.fromkeys(arm for arm, _, _ in arm_rows(compared))
    for arm in arms:
        measured = {
            name: figures.get("behaviour") or {}
            for a, name, figures in arm_rows(compared)
            if a == arm
        }
        rows = behaviour_rows(measured)
        if rows:
            parts.append(details(arm_style(arm).title, table(("measure", *measured), rows)))
    return join(parts) if parts else missing("The results hold no behaviour measures.")


def _cost(compared: Sequence[Compared], data: DataFiles) -> Html:
    names = ("episodes", "steps", "prompt", "completion", "calls", "seconds", "dollars")
    totals = [asdict(spent(one.material)) for one in compared]
    rows = [
        (one.name, *(number(total[n]) for n in names[:5]), seconds(total["seconds"]),
         dollars(total["dollars"]) + (" + unpriced" if total["unpriced"] else ""))
        for one, total in zip(compared, totals, strict=True)
    ]  # fmt: skip
    tokens = ("prompt tokens", "completion tokens", "calls")
    head = ("directory", "episodes", "steps", *tokens, "time", "US dollars")
    kept = [
        (one.name, *(total[n] for n in names)) for one, total in zip(compared, totals, strict=True)
    ]
    links = data.keep("cost", ("workdir", *names), kept)
    return join([table(head, rows, "Finished episodes, stages and servers"), links])


def _settings(compared: Sequence[Compared]) -> Html:
    """Every setting in which the directories differ, and the templates and weights they used."""
    flat = [_flat(one.material.config or {}) for one in compared]
    keys = [
        key
        for key in dict.fromkeys(key for settings in flat for key in settings)
        if key not in _PLACES and len({json.dumps(s.get(key)) for s in flat}) > 1
    ]
    rows = [(key, *(_setting(s.get(key)) for s in flat)) for key in keys[:_MOST_SETTINGS]]
    for arm in dict.fromkeys(arm for arm, _, _ in arm_rows(compared)):
        templates = [(one.material.arms().get(arm, {}).get("template") or {}) for one in compared]
        cells = [f"{t.get('id', '-')} {t.get('hash', '')}".strip() for t in templates]
        rows.append((f"template of {arm}", *cells))
    rows.append(
        ("base weights", *((o.material.results or {}).get("base_hash", "-")[:16] for o in compared))
    )
    parts = [
        table(("setting", *(one.name for one in compared)), rows, "What differs", numeric=False)
    ]
    if len(keys) > _MOST_SETTINGS:
        parts.append(paragraph(f"and {len(keys) - _MOST_SETTINGS} more settings", cls="quiet"))
    return join(parts)


def _flat(settings: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    found = {}
    for key, value in settings.items():
        path = f"{place}.{key}" if place else key
        found |= _flat(value, path) if isinstance(value, Mapping) else {path: value}
    return found


def _setting(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
