"""The append-only record of everything that was proposed and what became of it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from automem_jax.files import sync_directory


class LedgerError(ValueError):
    """A ledger cannot be used; the message names file, line and mend."""


class Ledger:
    """A JSONL file; every row is on disk before `append` returns.

    A line torn by a kill is cut off when the ledger is opened for going on; a corrupt line elsewhere
    is an error. Rows hold no time and no secret, so a resumed run ends with the same bytes.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = read_ledger(self.path)
        self._cut_torn_line()

    def append(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a row, synced to disk."""
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        new = not self.path.exists()
        with open(self.path, "ab") as file:
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self.path.parent)
        self.rows.append(json.loads(line))
        return self.rows[-1]

    def find(self, **fields: Any) -> dict[str, Any] | None:
        """The first row whose named fields have these values."""
        for row in self.rows:
            if all(row.get(name) == value for name, value in fields.items()):
                return row
        return None

    def _cut_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())


def read_ledger(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of a ledger; none for a missing file. A torn last line is left out.

    Raises:
      LedgerError: a line in the middle is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise LedgerError(f"{path}:{number}: not JSON ({error}); restore the file") from error
        if not isinstance(row, dict):
            raise LedgerError(f"{path}:{number}: expected a JSON object; restore the file")
        rows.append(row)
    return rows


def looks_at_seeds(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often seeds were looked at, by seed set.

    A look at a search seed is a template whose episode there was played for the architect to read; at a
    gate seed, a candidate judged with it; at a held-out seed, an evaluation that scored it.

    Returns:
      for each set: `seeds` looked at, `looks` in all, and `most` at any one seed.
    """
    counts: dict[str, Counter[int]] = {}
    for row in rows:
        kind = row.get("type")
        if kind in _LOOKS:
            counts.setdefault(_LOOKS[kind], Counter()).update(row["seeds"])
        elif kind == "charge" and row.get("set") == "search":
            counts.setdefault("search", Counter()).update(row["seeds"])
    return {
        name: {"seeds": len(seen), "looks": seen.total(), "most": max(seen.values())}
        for name, seen in counts.items()
    }


_LOOKS = {"look": "gate", "heldout": "heldout"}  # seed set by type of row
