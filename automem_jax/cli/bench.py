"""Benchmarks. `automem bench env` measures environments: steps/s with text and without, resets,
compilation and worker processes; where the `balrog` package is installed, its environments too.

Prints tables and writes WORKDIR/bench/env.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from automem_jax.cli import environment_flags, flags
from automem_jax.files import write_json

WORDS = ("env",)
WORKERS = "0,1,2"

_BATCH = flags.stage_flag("batch", "16,64,256", "Numbers of slots to measure.")
_SECONDS = flags.stage_flag("seconds", "3", "Seconds to measure each combination for.")
_COMPILE = flags.stage_flag(
    "compile", "yes", "Time a first step with an empty and a filled cache.", ["yes", "no"]
)


def main(experiment: flags.Experiment) -> None:
    from automem_jax.bench import env as bench

    configs = environment_flags.chosen(experiment.config.env)
    batches = environment_flags.whole_numbers("batch", _BATCH.value, least=1)
    workers = environment_flags.worker_counts(WORKERS, least=0)
    try:
        seconds = float(_SECONDS.value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise flags.UsageError(f"--seconds={_SECONDS.value}: must be a positive number of seconds")
    flags.use_compilation_cache()
    found: dict[str, list[Any]] = {"speed": [], "first_step": [], "balrog": []}
    measured = bench.run(configs, batches, workers, seconds, compile_probe=_COMPILE.value == "yes")
    for kind, row in measured:
        found[kind].append(row if isinstance(row, dict) else dataclasses.asdict(row))
        print(_progress_line(kind, found[kind][-1]), flush=True)
    path = experiment.workdir / "bench" / "env.json"
    write_json(path, {"machine": bench.machine(), "seconds": seconds, **found})
    _print_tables(found, path)


def _progress_line(kind: str, row: dict[str, Any]) -> str:
    if kind == "speed":
        return (
            f"{row['env']}: batch {row['batch']}, workers {row['workers']}: "
            f"{row['steps_per_s']:,.0f} steps/s"
        )
    if kind == "first_step":
        return (
            f"{row['env']}: first step of a process, {row['cache']} cache: {row['total_s']:.1f} s"
        )
    figure = f"{row['steps_per_s']:,.0f} steps/s" if "steps_per_s" in row else row["why"]
    return f"balrog's {row['env']}: {figure}"


def _print_tables(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    def show(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(title=title, box=None, padding=(0, 2, 0, 0), title_justify="left")
        for head in heads:
            table.add_column(head, justify="left" if head in ("env", "cache") else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()

    console = Console()
    show(
        "agent-visible steps/s",
        ("env", "batch", "workers", "text", "+ resets", "a core", "raw", "reset", "start"),
        [
            (
                row["env"],
                str(row["batch"]),
                str(row["workers"]),
                f"{row['steps_per_s']:,.0f}",
                f"{row['steps_per_s_with_resets']:,.0f}",
                f"{row['steps_per_cpu_s']:,.0f}" if row["steps_per_cpu_s"] else "",
                f"{row['raw_steps_per_s']:,.0f}",
                f"{row['reset_ms']:.1f}",
                f"{row['start_s']:.1f}",
            )
            for row in found["speed"]
        ],
    )
    if found["first_step"]:
        names = ("import_s", "reset_s", "step_s", "total_s")
        show(
            "a fresh process until its first step, s",
            ("env", "batch", "cache", "import", "reset", "step", "in all"),
            [
                (row["env"], str(row["batch"]), row["cache"], *(f"{row[n]:.1f}" for n in names))
                for row in found["first_step"]
            ],
        )
    print(
        "text: with full text, resets not counted; + resets: with them; a core: by processor time;"
    )
    print(
        "raw: the engine alone, as its package gives it, in this process; reset: of one slot, ms;"
    )
    print("start: until all slots have been reset, s")
    print(f"written: {path}")
