"""Memory as plain files.

  automem memory export TRACE DIRECTORY [--step N]     the files as they were after a step

Without --step, as they were at the end of the episode. DIRECTORY must not exist, be empty, or hold an
earlier export, which is replaced.
"""

from __future__ import annotations

import argparse


def command(arguments: list[str]) -> None:
    """Runs one of the words with its own arguments."""
    parser = argparse.ArgumentParser(
        prog="automem memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = parser.add_subparsers(required=True, metavar="export")
    export = words.add_parser("export", help="write the files of a recorded episode")
    export.add_argument("trace", metavar="TRACE")
    export.add_argument("directory", metavar="DIRECTORY")
    export.add_argument("--step", type=int, help="environment step (default: the last)")
    options = parser.parse_args(arguments)
    _export(options.trace, options.directory, options.step)


def _export(path: str, directory: str, step: int | None) -> None:
    from automem_jax.agent.store_files import export_files, files_at
    from automem_jax.traces.store import read_trace

    trace = read_trace(path)
    if step is not None and not 0 <= step < len(trace.steps):
        raise ValueError(f"--step={step}: the trace has {len(trace.steps)} steps, from 0")
    for written in export_files(files_at(trace.steps, step), directory):
        print(written)
