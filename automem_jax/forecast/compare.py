"""WORKDIR/forecast.json, and what the same stages really took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.files import write_json
from automem_jax.forecast.amounts import QUANTITIES
from automem_jax.forecast.stages import Forecast
from automem_jax.live import disk

FORECAST_FILE = "forecast.json"
TOTAL = "total"
_ENDS = ("low", "expected", "high")
_SCHEMA = 1
_FOLDERS = {  # of traces, by stage
    "evolve": ("search", "gate"),
    "rollout collect": ("collect",),
    "evaluate": ("evaluate",),
    "online": ("online",),
    "recipes": ("recipes",),
}


@dataclass(frozen=True)
class Compared:
    """One quantity of one stage; `actual` None: not known, or the stage has not run.

    Attributes:
      stage: as in timing.json, or TOTAL: of the stages that have run. quantity: of QUANTITIES.
      low, expected, high: forecast. inside: the actual lies in the range; None where there is none.
      ratio: actual by expected; None where either is missing or 0.
    """

    stage: str
    quantity: str
    low: float
    expected: float
    high: float
    actual: float | None
    inside: bool | None
    ratio: float | None


def write_forecast(workdir: str | Path, found: Forecast) -> Path:
    """Writes forecast.json: rows of a stage's name and, by QUANTITIES, low, expected and high (or null)."""
    rows = [
        {"stage": stage} | amounts.to_data()
        for stage, amounts in {**found.rows, TOTAL: found.total}.items()
    ]
    path = Path(workdir) / FORECAST_FILE
    write_json(
        path,
        {
            "schema": _SCHEMA,
            "config_hash": found.config_hash,
            "chips": found.chips,
            "assumptions": list(found.assumptions),
            "rows": rows,
        },
    )
    return path


def read_forecast(workdir: str | Path) -> dict[str, Any] | None:
    """forecast.json; None where there is none, or of another version."""
    data = disk.read_object(Path(workdir) / FORECAST_FILE)
    return data if data.get("schema") == _SCHEMA and isinstance(data.get("rows"), list) else None


def actuals(workdir: str | Path) -> dict[str, dict[str, float | None]]:
    """What every stage that has begun took so far, by QUANTITIES; None: not known.

    Episodes, calls and tokens are those of finished traces; seconds of timing.json, interrupted runs
    included; dollars of usage.json and the architect's charges; accelerator hours are seconds times the chips
    that the forecast was told of, of an in-process model.
    """
    workdir = Path(workdir)
    timing = disk.read_object(workdir / "timing.json").get("stages") or {}
    found: dict[str, dict[str, float | None]] = {
        stage: dict.fromkeys(QUANTITIES) | {"seconds": seconds} for stage, seconds in timing.items()
    }
    played = disk.episodes(workdir)
    for stage, folders in _FOLDERS.items():
        rows = [row for row in played if row.folder.partition("/")[0] in folders]
        if not rows:
            continue
        row = found.setdefault(stage, dict.fromkeys(QUANTITIES))
        for name in ("episodes", "calls", "prompt_tokens", "generated_tokens"):
            row[name] = sum(getattr(one, name) for one in rows)
    config = disk.read_config(workdir)
    for training in disk.trainings(workdir):
        stage = f"train {training.name}"
        if config is not None and stage in found:
            size = config.training.batch_rows * config.training.row_tokens
            found[stage]["trained_tokens"] = training.steps * size
    spent = disk.spend(workdir)
    asked = spent.pop("architect", None)
    for stage, spend in spent.items():
        if stage in found:
            found[stage]["dollars"] = spend.dollars
    if asked is not None and "evolve" in found:
        row = found["evolve"]
        for name in ("calls", "prompt_tokens", "generated_tokens", "dollars"):
            value = getattr(asked, name)
            if value is not None:
                row[name] = (row[name] or 0) + value
    chips = (read_forecast(workdir) or {}).get("chips", 0)
    if config is not None and config.policy.kind == "local":
        for row in found.values():
            if row["seconds"] is not None:
                row["accelerator_hours"] = row["seconds"] * chips / 3600
        for stage, row in found.items():  # the in-process model costs no server's money
            if row["dollars"] is None and (stage != "evolve" or config.architect.kind != "api"):
                row["dollars"] = 0.0
    return found


def compare(workdir: str | Path) -> list[Compared]:
    """Forecast beside actuals, stage by stage, then TOTAL over the stages that have run.

    Empty where no forecast was made. Quantities that the forecast did not know are left out.
    """
    told = read_forecast(workdir)
    if told is None:
        return []
    took = actuals(workdir)
    compared = []
    totals = {name: [0.0, 0.0, 0.0, 0.0] for name in QUANTITIES}
    for row in told["rows"]:
        stage = row["stage"]
        if stage == TOTAL:
            continue
        for name in QUANTITIES:
            told_range = row.get(name)
            if told_range is None:
                continue
            ends = [told_range[end] for end in _ENDS]
            actual = (took.get(stage) or {}).get(name)
            compared.append(_compared(stage, name, ends, actual))
            if actual is not None:
                totals[name] = [a + b for a, b in zip(totals[name], (*ends, actual), strict=True)]
    for name, (*ends, actual) in totals.items():
        if any(ends) or actual:
            compared.append(_compared(TOTAL, name, ends, actual))
    return compared


def _compared(stage: str, name: str, ends: list[float], actual: float | None) -> Compared:
    low, expected, high = ends
    inside = None if actual is None else low <= actual <= high
    ratio = actual / expected if actual and expected else None
    return Compared(stage, name, low, expected, high, actual, inside, ratio)
