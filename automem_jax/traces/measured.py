"""Tables of what was measured on traces, a row a decision: JSONL, append-only, resumable.

The first line says under what settings the figures were made. A row is on disk before the next one is
begun; a line torn by a kill is cut off and measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

_KEY = ("episode", "t", "phase", "turn")


class MeasuredTable:
    """Rows by (episode, t, phase, turn, *more), where `more` names further fields of a row's key.

    Raises:
      ValueError: the file was made with other settings, or a line of it cannot be read.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], more: tuple[str, ...] = ()):
        self.path = Path(path)
        self._fields = (*_KEY, *more)
        self._settings = json.loads(json.dumps(settings))
        self._rows: dict[tuple, dict[str, Any]] = {}
        self._is_new = not self._read()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._rows

    def __getitem__(self, key: tuple) -> dict[str, Any]:
        return self._rows[key]

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row and puts it on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            if self._is_new:
                file.write(_line({"type": "header"} | self._settings))
                self._is_new = False
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        self._rows[tuple(row[name] for name in self._fields)] = dict(row)

    def _read(self) -> bool:
        if not self.path.exists():
            return False
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        lines = list(_rows(self.path, whole))
        if not lines:
            return False
        found = {key: value for key, value in lines[0].items() if key != "type"}
        if found != self._settings:
            raise ValueError(
                f"{self.path}: these figures were made with other settings; move the file away or name "
                "another"
            )
        self._rows = {tuple(row[name] for name in self._fields): row for row in lines[1:]}
        return True


def read_measured(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of a table, whatever its settings; a torn last line is left out, a missing file is empty."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return
    rows = _rows(Path(path), data[: data.rfind(b"\n") + 1])
    yield from (row for row in rows if row.get("type") != "header")


def settings_hash(settings: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the settings; names a table's file."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rows(path: Path, data: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: not a JSON line ({error}); move the file away and measure again"
            ) from None


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n"
