"""Held-out evaluation: run every arm on the same seeds, summarise, write, print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from automem_jax import terminal
from automem_jax.config import ExperimentConfig, seed_sets
from automem_jax.evaluation.balrog import export_balrog
from automem_jax.evaluation.metrics import CueProbe
from automem_jax.evaluation.results import summarise
from automem_jax.files import write_json


@dataclass(frozen=True)
class Arm:
    """One thing to evaluate.

    Attributes:
      name: names the arm's directory and its row.
      template: the template it runs (a Template, or a name or path the runner understands).
      adapter_path: adapter that makes the specialist; None runs the base alone.
      kind: of agent: memory, or a baseline without memory, which takes the template's actions only.
    """

    name: str
    template: Any
    adapter_path: Path | None = None
    kind: str = "memory"


_SEEDS_SHOWN = 10
RunArm = Callable[[Arm, Sequence[int], Path], object]


def heldout_seeds(config: ExperimentConfig) -> list[int]:
    """Seeds of the final evaluation."""
    return list(seed_sets(config.seeds)["heldout"])


def evaluate(
    config: ExperimentConfig,
    arms: Sequence[Arm],
    run_arm: RunArm,
    workdir: str | Path,
    *,
    comparisons: Sequence[tuple[str, str]] | None = None,
    probe: CueProbe | None = None,
    base_hash: str = "",
) -> dict[str, Any]:
    """Runs every arm on the held-out seeds and writes `<workdir>/results.json`.

    Args:
      run_arm: runs one arm on seeds into a directory of traces, skipping finished episodes; so a
        killed evaluation goes on where it stopped.
      comparisons, probe, base_hash: see results.summarise.

    Returns:
      The results, as written. A BALROG-format copy of each arm lies in `evaluate/<arm>/balrog/`.

    Raises:
      ValueError: two arms share a name.
      ResultsError: an arm left a seed without a trace.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"arm names repeat: {', '.join(names)}; give each arm its own")
    workdir = Path(workdir)
    seeds = heldout_seeds(config)
    directories = {name: workdir / "traces" / "evaluate" / name for name in names}
    for arm in arms:
        directories[arm.name].mkdir(parents=True, exist_ok=True)
        run_arm(arm, seeds, directories[arm.name])
    results = summarise(
        directories,
        comparisons=comparisons,
        confidence=config.evaluation.confidence,
        samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
        probe=probe,
        base_hash=base_hash,
        expected=dict.fromkeys(names, seeds),
    )
    results = {
        "experiment": config.name,
        "env": config.env.name,
        "task": config.env.task,
        "seeds": {"first": seeds[0], "count": len(seeds)} if seeds else {},
    } | results
    write_json(workdir / "results.json", results)
    for name in names:
        export_balrog([results], name, workdir / "evaluate" / name / "balrog")
    return results


def print_table(results: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Prints arms and differences: coloured tables on a terminal, plain lines elsewhere."""
    from rich.table import Table

    console = terminal.console(file)
    level = f"{100 * results['confidence']:g} %"
    columns = (
        "arm",
        "n",
        "mean %",
        "± SE",
        f"{level} interval",
        "failed",
        "tokens/step",
        "cue read",
    )
    rows = [_arm_row(name, arm) for name, arm in results["arms"].items()]
    gaps = ("difference", "n", "mean %", "± SE", f"{level} interval", "better/worse/same")
    gap_rows = [_difference_row(d) for d in results["paired_differences"]]
    for title, head, body in (("", columns, rows), ("", gaps, gap_rows)):
        if not body:
            continue
        if not console.is_terminal:
            print(plain_table(head, body), file=file)
            continue
        table = Table(*head, title=title or None)
        for row in body:
            table.add_row(*row)
        console.print(table)
    for name, arm in results["arms"].items():
        for line in _failures(name, arm):
            print(terminal.printable(line), file=file)


def _failures(name: str, arm: Mapping[str, Any]) -> list[str]:
    """What a reader must know of an arm whose model calls failed, and which episodes that is about."""
    failed = [episode for episode in arm["episodes"] if episode.get("failed_calls")]
    if not failed:
        return []
    seeds = ", ".join(str(episode["seed"]) for episode in failed[:_SEEDS_SHOWN])
    more = "" if len(failed) <= _SEEDS_SHOWN else f" and {len(failed) - _SEEDS_SHOWN} more"
    causes = "; ".join(f"{count} for {cause}" for cause, count in arm["fallbacks"].items())
    return [
        f"{name}: {arm['failed_calls']} model calls failed in {len(failed)} of {arm['n']} episodes "
        f"(seeds {seeds}{more}); fallback actions: {causes or 'none'}"
    ]


def _arm_row(name: str, arm: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        str(arm["n"]),
        _percent(arm["mean"]),
        _percent(arm["standard_error"]),
        _interval(arm["interval"]),
        str(len(arm["failed"])),
        _number(arm["behaviour"]["input_tokens_per_step"]),
        _percent(arm["cue"]["cue_read"]) if arm["cue"] else "-",
    )


def _difference_row(difference: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{difference['arm']} - {difference['baseline']}",
        str(difference["n"]),
        f"{100 * difference['mean']:+.1f}",
        _percent(difference["standard_error"]),
        _interval(difference["interval"]),
        f"{difference['wins']}/{difference['losses']}/{difference['ties']}",
    )


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text, columns aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        for row in (head, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
