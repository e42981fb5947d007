"""Reads traces one at a time, in several processes where there is much to read.

What comes back holds no prompt and no answer, so a hundred episodes of thousands of steps fit into
memory together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from automem_jax.selection.filters import is_memory_turn
from automem_jax.selection.lineage import EpisodeLineage, follow
from automem_jax.selection.signals import EpisodeSignals, episode_signals
from automem_jax.traces.store import read_trace

PROCESS_BYTES = 48 << 20  # of traces: what pays for starting processes
MOST_PROCESSES = 8
_KEPT = ("op", "ok", "wrote", "read", "redundant", "empty")

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Scan:
    """What to measure; `signals` False follows lineages only. See episode_signals."""

    signals: bool = False
    horizon: int = 0
    discount: float = 1.0
    vocabulary: frozenset[str] | None = None

    def __call__(self, path: str) -> tuple[int, EpisodeSignals | EpisodeLineage | None]:
        """A trace's seed and what is in it; None where the episode is not finished."""
        with without_collector():
            return self._read(path)

    def _read(self, path: str) -> tuple[int, EpisodeSignals | EpisodeLineage | None]:
        trace = read_trace(path)
        seed = int(trace.header["seed"])
        if trace.end is None:
            return seed, None
        lineage = follow(trace, path)
        if not self.signals:
            lineage.turns = [_slim(t) for t in lineage.turns if is_memory_turn(lineage, t)]
            return seed, lineage
        found = episode_signals(
            trace,
            lineage,
            horizon=self.horizon,
            discount=self.discount,
            vocabulary=self.vocabulary,
        )
        lineage.turns = []
        return seed, found


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Python's cycle collector is off: a trace is a million objects without a cycle, and looking through
    them again and again would cost more the longer the trace is."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def in_processes(
    work: Callable[[Given], Found], items: Sequence[Given], paths: Iterable[str], workers: int = 0
) -> Iterator[Found]:
    """`work` of each item, in order.

    Args:
      work, items: what a fresh process can import and be sent.
      paths: the files that are read on the way; by their size it is decided whether processes pay.
      workers: processes; 0: by size and by processors, 1: none but this one.
    """
    size = sum(Path(path).stat().st_size for path in set(paths)) if workers == 0 else 0
    if workers == 0:
        workers = min(MOST_PROCESSES, os.cpu_count() or 1) if size > PROCESS_BYTES else 1
    if workers == 1 or len(items) < 2 or multiprocessing.parent_process() is not None:
        yield from map(work, items)
        return
    done = 0
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(workers, context))
        try:
            waiting: list[Any] = []
            left = iter(items)
            for item in itertools.islice(left, 2 * workers):
                waiting.append(pool.submit(work, item))
            while waiting:
                found = waiting.pop(0).result()
                done += 1
                for item in itertools.islice(left, 1):
                    waiting.append(pool.submit(work, item))
                yield found
            return
        except BrokenProcessPool:  # a script without the usual main guard, or no room for processes
            pool.shutdown(wait=False, cancel_futures=True)
    yield from map(work, items[done:])


def _slim(turn: Any) -> Any:
    operations = tuple({name: o[name] for name in _KEPT if name in o} for o in turn.operations)
    return dataclasses.replace(turn, operations=operations)
