"""The append-only record of the recipe search: what was proposed, tried and found, and what it cost.

A row a line of ledger.jsonl; `type` says which:

    start     what the search depends on, with its hash
    proposal  a recipe, by whom, accepted or refused (then with the constraint or the fault)
    data      what was selected for it: examples, hash, phases; or why nothing could be
    rung      one training: epochs, steps, losses, adapter hash; or why it failed
    halving   who goes on after a rung, in order of validation loss
    gate      paired evaluation of a survivor against the best so far, kept or dropped
    round     the best at the end of an iteration
    end       the best of all

`costs` counts tokens (trained, played, asked of an API) and dollars, the same however often the search
was interrupted. `clock` holds the seconds of the process that wrote the row: no two runs share it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from automem_jax.architect.ledger import Ledger, LedgerError, read_ledger

CLOCK = "clock"

__all__ = ["CLOCK", "Ledger", "LedgerError", "read_ledger", "timed", "totals", "without_clock"]


@contextmanager
def timed(row: dict[str, Any]) -> Iterator[None]:
    """Adds the seconds that the block takes to the row's clock."""
    started = time.monotonic()
    try:
        yield
    finally:
        row[CLOCK] = {"seconds": round(time.monotonic() - started, 3)}


def without_clock(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key != CLOCK} for row in rows]


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds, and every cost summed over the rows; a cost that no row knows is left out."""
    found: dict[str, float] = {"seconds": 0.0}
    for row in rows:
        found["seconds"] += row.get(CLOCK, {}).get("seconds", 0.0)
        for name, value in (row.get("costs") or {}).items():
            if value is not None:
                found[name] = found.get(name, 0) + value
    return found
