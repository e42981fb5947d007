"""Compares finished work directories on one page: arms side by side, paired where seeds are the same.

  automem compare WORKDIR WORKDIR ... --out=FILE.html

The first is what the others are held against. A folder beside the page has its numbers as CSV and JSON.
"""

from __future__ import annotations

import argparse


def command(arguments: list[str]) -> None:
    """Prints the differences and writes the page."""
    parser = argparse.ArgumentParser(
        prog="automem compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    parser.add_argument(
        "--out", default="comparison.html", metavar="FILE.html", help="default: comparison.html"
    )
    options = parser.parse_args(arguments)

    from automem_jax.evaluation.evaluate import plain_table
    from automem_jax.report.compare import arm_rows, differences, read_compared, write_comparison
    from automem_jax.report.formats import interval, percent
    from automem_jax.report.page import visible

    compared = read_compared(options.workdirs)
    rows = [
        (arm, name, str(a["n"]), percent(a["mean"]), percent(a.get("standard_error")),
         interval(a.get("interval")))
        for arm, name, a in arm_rows(compared)
    ]  # fmt: skip
    level = f"{compared[0].material.level()} interval"
    print(visible(plain_table(("arm", "directory", "n", "mean %", "± SE", level), rows)))
    rows = [
        (d.arm, f"{d.name} - {d.against}", str(d.paired.n), percent(d.paired.mean, True),
         interval(d.paired.interval, True), f"{d.paired.wins}/{d.paired.losses}/{d.paired.ties}")
        for d in differences(compared)
    ]  # fmt: skip
    if rows:
        head = ("arm", "difference", "n", "points", level, "better/worse/same")
        print(visible(plain_table(head, rows)))
    print(f"comparison: {write_comparison(options.workdirs, options.out)}")
