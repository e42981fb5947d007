"""Environment tools. `automem envs check` is the determinism self-test: it plays every seed with
scripted actions in this process, again in other slots, and with worker processes, and compares the
hash of every part of every observation.

Exit status 1 where anything differs; seed, step and field are named.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from automem_jax import terminal
from automem_jax.cli import environment_flags, flags

if TYPE_CHECKING:
    from rich.table import Table

    from automem_jax.envs import selftest

WORDS = ("check",)
WORKERS = "1,2,4"

_EPISODES = flags.stage_flag("episodes", "8", "Seeds to play, from the config's collect set on.")
_STEPS = flags.stage_flag("steps", "50", "Scripted steps an episode.")


def main(experiment: flags.Experiment) -> None:
    from automem_jax.envs import selftest

    console = terminal.console()
    configs = environment_flags.chosen(experiment.config.env)
    (episodes,) = environment_flags.whole_numbers("episodes", _EPISODES.value, least=1, most=1)
    (steps,) = environment_flags.whole_numbers("steps", _STEPS.value, least=1, most=1)
    workers = environment_flags.worker_counts(WORKERS, least=1)
    first = experiment.config.seeds.collect_start
    if any(config.name.startswith("craftax") for config in configs):
        flags.use_compilation_cache()
    rows = []
    for config in configs:
        played = selftest.check(config, range(first, first + episodes), steps, workers)
        console.print(_table(f"{config.name} {config.task}", played))
        rows += played
    different = [(row, place) for row in rows for place in row.differences]
    for row, place in different:
        print(
            f"{row.env} {row.task}, {row.how}: seed {place.seed}, step {place.step} differs in "
            f"{place.field}",
            file=sys.stderr,
        )
    if different:
        sys.exit(1)


def _table(title: str, rows: list[selftest.Row]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for head in ("played", "episodes", "percepts", "failed", "digest", "s", "equal"):
        table.add_column(head, justify="left" if head in ("played", "digest") else "right")
    for row in rows:
        counts = map(str, (row.episodes, row.percepts, row.failed))
        equal = "no" if row.differences else "yes"
        table.add_row(row.how, *counts, row.digest, f"{row.seconds:.1f}", equal)
    return table
