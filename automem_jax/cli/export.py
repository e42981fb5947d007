"""Writes one arm's results in BALROG's layout, several work directories together, and prints the table.

  automem export WORKDIR ... OUT --arm=specialist_best

OUT gets <env>/<task>/<task>_run_NN.json for every episode, <env>/<env>_summary.json, summary.json and
summary.md. Work directories of different tasks or environments make one result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def command(arguments: list[str]) -> None:
    """Writes the files and prints the summary table."""
    parser = argparse.ArgumentParser(
        prog="automem export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    parser.add_argument("out", metavar="OUT", help="a directory that does not exist yet")
    parser.add_argument("--arm", default="specialist_best", help="default: specialist_best")
    options = parser.parse_args(arguments)

    from automem_jax.evaluation.balrog import export_balrog, summary_table

    out = Path(options.out)
    if out.exists():
        raise FileExistsError(f"{out} exists; name a directory that does not, old runs would count")
    summary = export_balrog([_results(Path(w)) for w in options.workdirs], options.arm, out)
    print(summary_table(summary))


def _results(workdir: Path) -> dict:
    path = workdir / "results.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run `automem evaluate` there first")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); run `automem evaluate` again"
        ) from error
