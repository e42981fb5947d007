"""How a work directory stands: its runs, alive or dead, and what lies finished on disk."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from automem_jax import terminal
from automem_jax.config import ExperimentConfig, seed_sets
from automem_jax.live import disk
from automem_jax.live.dashboard import failures, lines, running_tasks, seconds
from automem_jax.live.record import RUNNING, SILENT, read_all


def read_status(workdir: str | Path) -> dict[str, Any]:
    """The status as JSON-ready values; nothing on disk is changed.

    runs: records (see live.record.begin), the latest first; stage, left_s, failures: of the latest;
    whole_left_s: of a pipeline under way, by forecast.json;
    episodes: by folder, with `of` where the configuration says how many there will be; trainings;
    evolve and recipes: rows of their ledgers by kind; spend: by stage, and total; results: whether
    results.json is there.

    Raises:
      ValueError: there is no such work directory.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(
            f"work directory {str(workdir)!r} does not exist; name one that a stage wrote"
        )
    runs = read_all(workdir)
    config = disk.read_config(workdir)
    latest = runs[0] if runs else {}
    alive = [run for run in runs if run["state"] in (RUNNING, SILENT)]
    pending = [run.get("usage") or {} for run in alive]
    spend = disk.spend(workdir, pending)
    left_s = next((task.get("left_s") for task in running_tasks(latest)), None)
    return {
        "workdir": str(workdir),
        "now": time.time(),
        "state": latest.get("state"),
        "stage": _stage(latest),
        "left_s": left_s,
        "whole_left_s": _whole_left_s(_forecast(workdir), latest, left_s),
        "failures": failures(latest),
        "runs": runs,
        "episodes": [
            dataclasses.asdict(row) | {"of": _expected(row.folder, config)}
            for row in disk.episodes(workdir)
        ],
        "trainings": [dataclasses.asdict(row) for row in disk.trainings(workdir)],
        "evolve": disk.count_rows(workdir / "evolve" / "ledger.jsonl"),
        "recipes": disk.count_rows(workdir / "recipes" / "ledger.jsonl"),
        "spend": {name: dataclasses.asdict(row) for name, row in spend.items()},
        "spent": dataclasses.asdict(sum(spend.values(), disk.Spend())),
        "results": (workdir / "results.json").is_file(),
    }


def describe(status: dict[str, Any]) -> list[str]:
    """The status in plain lines."""
    found = [f"work directory {status['workdir']}"]
    for run in status["runs"]:
        found += lines(run, status["now"])
    if not status["runs"]:
        found.append("no command has left a record here")
    return [*found, *on_disk(status)]


def on_disk(status: dict[str, Any]) -> list[str]:
    """What is finished, what was spent and, by a forecast, what is to come, in plain lines."""
    left_s = status["whole_left_s"]
    found = (
        []
        if left_s is None
        else [f"by forecast.json: {seconds(left_s)} to the end of the pipeline"]
    )
    found.append("on disk:")
    for row in status["episodes"]:
        most = "up to " if row["folder"].startswith("gate/") else ""  # a gate may stop early
        of = f" of {most}{row['of']}" if row["of"] else ""
        parts = [f"traces/{row['folder']}: {row['episodes']}{of} episodes"]
        if row["episodes"]:
            parts.append(f"progression {row['progression'] / row['episodes']:.3f}")
        parts += [
            f"{row[name]} {words}"
            for name, words in (
                ("running", "begun"),
                ("failed", "with failures"),
                ("unreadable", "unreadable"),
            )
            if row[name]
        ]
        found.append("  " + ", ".join(parts))
    if status["episodes"]:
        calls, prompt, generated = (
            sum(row[name] for row in status["episodes"])
            for name in ("calls", "prompt_tokens", "generated_tokens")
        )
        found.append(
            f"  played in all: {calls:,} calls, {prompt:,} prompt and {generated:,} generated tokens"
        )
    for row in status["trainings"]:
        loss = "" if row["loss"] is None else f", loss {row['loss']:.4f}"
        state = "finished" if row["finished"] else "not finished"
        found.append(f"  train/{row['name']}: {row['steps']} steps{loss}, {state}")
    for name in ("evolve", "recipes"):
        counts = ", ".join(f"{n} {kind}" for kind, n in status[name].items())
        if counts:
            found.append(f"  {name}/ledger.jsonl: {counts}")
    if status["results"]:
        found.append("  results.json")
    if found[-1] == "on disk:":
        found.append("  nothing yet")
    found += [
        f"spent: {name or 'under way'}: {_spent(row)}" for name, row in status["spend"].items()
    ]
    if len(status["spend"]) > 1:
        found.append(f"spent in all: {_spent(status['spent'])}")
    return [_indented(line) for line in found]


def _stage(run: dict[str, Any]) -> str | None:
    stages = run.get("stages") or []
    return stages[-1].get("name") if stages else None


def _forecast(workdir: Path) -> dict[str, float]:
    """Expected seconds by stage, of forecast.json; empty where it says nothing of them."""
    rows = disk.read_object(workdir / "forecast.json").get("rows")
    try:
        known = {row["stage"]: row["seconds"] for row in rows or () if row["seconds"]}
        return {stage: float(s["expected"]) for stage, s in known.items() if stage != "total"}
    except (KeyError, TypeError, ValueError):
        return {}  # of another version


def _whole_left_s(
    forecast: dict[str, float], run: dict[str, Any], left_s: float | None
) -> float | None:
    """Seconds to the end of a pipeline, by its own forecast; None where there is none."""
    stages = run.get("stages") or []
    if (
        run.get("command") != "pipeline"
        or run.get("state") != RUNNING
        or not forecast
        or not stages
    ):
        return None
    began = {row.get("name"): row for row in stages}
    total = 0.0
    for name, expected in forecast.items():
        stage = began.get(name)
        if stage is not None and stage.get("ended"):
            continue
        if stage is not None:  # under way: its tasks know better where they take longer
            expected = max(expected - (time.time() - stage["began"]), left_s or 0.0)
        total += expected
    return round(total, 1)


def _expected(folder: str, config: ExperimentConfig | None) -> int | None:
    """How many episodes a folder of traces is to have."""
    if config is None:
        return None
    first = folder.partition("/")[0]
    if first == "online":
        return config.online.episodes
    sets = {name: len(seeds) for name, seeds in seed_sets(config.seeds).items()}
    return sets.get("heldout" if first == "evaluate" else first)


def _spent(row: dict[str, Any]) -> str:
    parts = [f"{row['calls']:,} calls"]
    parts += [f"{row[name]:,} {name}" for name in ("retries", "failed") if row[name]]
    parts += [f"{row['prompt_tokens']:,} prompt and {row['generated_tokens']:,} generated tokens"]
    if row["dollars"] is not None:
        parts.append(f"{row['dollars']:,.4f} USD")
    return ", ".join(parts)


def _indented(line: str) -> str:
    return ("  " if line.startswith("  ") else "") + terminal.one_line(line)
