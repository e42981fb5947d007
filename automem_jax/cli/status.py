"""Tells how the runs of a work directory stand: stage, progress, speed, time left, spend, failures.

  automem status WORKDIR             once, also of a run that was killed
  automem status WORKDIR --watch     again and again, until no run is under way; Ctrl-C ends it
  automem status WORKDIR --json      all figures, for programs

It only reads: any number of people may look, on this machine or on another one that shares the directory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time


def command(arguments: list[str]) -> None:
    """Prints the status once, or until every run has ended."""
    parser = argparse.ArgumentParser(
        prog="automem status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", metavar="WORKDIR")
    parser.add_argument("--watch", action="store_true", help="go on until every run has ended")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON, with --watch a line each")
    options = parser.parse_args(arguments)
    if not 0.1 <= options.every <= 3600:
        raise ValueError(f"--every={options.every:g}: give seconds between 0.1 and 3600")
    with contextlib.suppress(KeyboardInterrupt):  # how one stops watching
        _tell(options)


def _tell(options: argparse.Namespace) -> None:
    from automem_jax.live.record import RUNNING, SILENT
    from automem_jax.live.status import describe, read_status

    drawn = options.watch and not options.json and sys.stdout.isatty()
    with _drawing() if drawn else contextlib.nullcontext() as draw:
        while True:
            status = read_status(options.workdir)
            if draw is not None:
                draw(status)
            elif options.json:
                print(json.dumps(status, indent=None if options.watch else 1), flush=True)
            else:
                print("\n".join(describe(status)), flush=True)
            alive = any(run["state"] in (RUNNING, SILENT) for run in status["runs"])
            if not options.watch or not alive:
                break
            time.sleep(options.every)
    if drawn:
        print("\n".join(describe(status)))


@contextlib.contextmanager
def _drawing():
    """Draws the run that is under way and, below, what lies on disk."""
    from rich.live import Live

    from automem_jax import terminal
    from automem_jax.live.dashboard import render
    from automem_jax.live.status import on_disk

    with Live(console=terminal.console(), auto_refresh=False, transient=True) as live:
        yield lambda status: live.update(
            render(status["runs"][0] if status["runs"] else {}, on_disk(status)), refresh=True
        )
