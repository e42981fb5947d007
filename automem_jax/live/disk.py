"""What lies finished in a work directory: episodes by folder, trainings, money; read from ends of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.config import ConfigError, ExperimentConfig, from_config_dict
from automem_jax.traces.store import list_traces, read_ends

_TAIL_BYTES = 1 << 14


@dataclass
class Episodes:
    """Finished traces of one folder.

    Attributes:
      folder: under traces/. running: begun and not ended. failed: with failed model calls or a broken
        environment, of those that ended. unreadable: traces that cannot be read.
      steps, calls, prompt_tokens, generated_tokens, progression: totals.
    """

    folder: str
    episodes: int = 0
    running: int = 0
    failed: int = 0
    unreadable: int = 0
    steps: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    progression: float = 0.0


@dataclass(frozen=True)
class Training:
    """One training: how far its metrics go, and whether it is finished. `fill`: 0 until then."""

    name: str
    steps: int
    loss: float | None
    finished: bool
    fill: float


@dataclass(frozen=True)
class Spend:
    """What servers were asked and paid; dollars None where no price is known."""

    calls: int = 0
    retries: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    dollars: float | None = None

    def __add__(self, other: Spend) -> Spend:
        known = [d for d in (self.dollars, other.dollars) if d is not None]
        return Spend(
            self.calls + other.calls,
            self.retries + other.retries,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.generated_tokens + other.generated_tokens,
            sum(known) if known else None,
        )


def read_config(workdir: Path) -> ExperimentConfig | None:
    """The configuration of a work directory; None where there is none of this version."""
    try:
        return from_config_dict(read_object(workdir / "config.json"))
    except (ConfigError, TypeError, AttributeError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def episodes(workdir: Path) -> list[Episodes]:
    """Finished episodes by folder, in the order of their names."""
    root = workdir / "traces"
    found: dict[str, Episodes] = {}

    def of(path: Path) -> Episodes:
        folder = path.parent.relative_to(root).as_posix()
        return found.setdefault(folder, Episodes(folder))

    for path in list_traces(root):
        total = of(path)
        try:
            _, end = read_ends(path)
            tokens = end["tokens"]
            steps, progression = int(end["steps"]), float(end["progression"])
            counts = [int(tokens.get(k, 0)) for k in ("calls", "prompt", "completion")]
            failed = bool(end["failed"] or (end.get("memory_stats") or {}).get("failed_calls"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            total.unreadable += 1
            continue
        total.episodes += 1
        total.steps += steps
        total.progression += progression
        total.failed += failed
        total.calls += counts[0]
        total.prompt_tokens += counts[1]
        total.generated_tokens += counts[2]
    for path in root.rglob("*.jsonl.partial"):
        of(path).running += 1
    return [found[name] for name in sorted(found)]


def trainings(workdir: Path) -> list[Training]:
    """Trainings under train/, in the order of their names."""
    found = []
    root = workdir / "train"
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else ():
        done, last = read_object(folder / "done.json"), _last_row(folder / "metrics.jsonl")
        if done or last:
            found.append(
                Training(
                    folder.name,
                    int(_number(last.get("step")) or _number(done.get("steps")) or 0),
                    _number(last.get("loss", done.get("final_loss"))),
                    bool(done),
                    _number(done.get("fill")) or 0.0,
                )
            )
    return found


def count_rows(path: Path) -> dict[str, int]:
    """Rows of a ledger by what they are, candidates and recipes by their verdict."""
    counts: dict[str, int] = {}
    for row in _rows(path):
        kind = str(row.get("type"))
        if kind in ("candidate", "gate") and row.get("verdict"):
            kind = f"{kind} {row['verdict']}"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def spend(workdir: Path, pending: Iterable[Mapping[str, Any]] = ()) -> dict[str, Spend]:
    """Calls and money by stage: what stages asked servers, and what architects did ("architect").

    Args:
      pending: usage by model of runs that are under way, not in usage.json yet; counted under "".
    """
    found: dict[str, Spend] = {}
    stages = read_object(workdir / "usage.json").get("stages")
    for name, models in (stages if isinstance(stages, dict) else {}).items():
        found[name] = sum(map(_usage, models.values()), Spend())
    now = sum((_usage(usage) for models in pending for usage in models.values()), Spend())
    if now != Spend():
        found[""] = now
    asked = Spend()
    for row in _rows(workdir / "evolve" / "ledger.jsonl"):
        if row.get("type") == "charge" and row.get("what") == "call":
            spent = row.get("spend") or {}
            asked += Spend(
                calls=1,
                prompt_tokens=spent.get("prompt_tokens", 0),
                generated_tokens=spent.get("completion_tokens", 0),
                dollars=None if spent.get("unpriced") else spent.get("dollars", 0.0),
            )
    if asked.calls:
        found["architect"] = asked
    return found


def _usage(usage: Mapping[str, Any]) -> Spend:
    return Spend(
        usage.get("calls", 0),
        usage.get("retries", 0),
        usage.get("failed", 0),
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        usage.get("cost_usd"),
    )


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    """Rows of a JSONL file; lines that cannot be read are left out."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a JSONL file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # torn by a kill
        if isinstance(row, dict):
            return row
    return {}


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
