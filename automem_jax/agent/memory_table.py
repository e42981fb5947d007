"""The lines of all files: ids, what makes single operations cheap, and the record of every change.

A line's id is unique in the episode and never reused, so a trace can tell who wrote what a later step
read. Adding, replacing and finding a line by its key or text cost the same however long the episode
has run.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent.memory_texts import Lines, key_and_value, normal, stored_bytes
from automem_jax.agent.template import FileSpec

_FEW_HOLES = 64


@dataclass
class MemoryFile:
    """Lines by id, in file order.

    Attributes:
      ranks: how many lines the file had been given before this one; neighbours differ by 1.
      known, exact: how often a normalised text and a text stand in the file.
      keys: a map's key -> id of its line; key_of: and back.
      pinned: lines that stood among the first `pin_head`, and what replaced them.
      size: bytes of UTF-8, a newline a line.
    """

    spec: FileSpec
    lines: dict[int, str] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    known: collections.Counter = field(default_factory=collections.Counter)
    exact: collections.Counter = field(default_factory=collections.Counter)
    keys: dict[str, int] = field(default_factory=dict)
    key_of: dict[int, str] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    size: int = 0
    given: int = 0
    holes: int = 0  # removed since the dicts were last packed

    def tail(self, count: int) -> Lines:
        """The last `count` lines, oldest first."""
        if count <= 0:
            return ()
        return tuple(reversed(list(itertools.islice(reversed(self.lines.items()), count))))

    def ranges(self, ids: Iterable[int]) -> list[list[int]]:
        """Runs [first, last] that cover these lines and none that the file holds or held besides."""
        runs: list[list[int]] = []
        expected = None
        for number in sorted(ids):
            rank = self.ranks[number]
            if rank == expected:
                runs[-1][1] = number
            else:
                runs.append([number, number])
            expected = rank + 1
        return runs

    def excess(self) -> list[int]:
        """Ids that pruning takes: all but the pinned lines and the last `keep_lines`.

        Lines that the agent pinned by `pin_mark` count against `hard_lines`; the oldest go first.
        """
        spec = self.spec
        if not spec.hard_lines or len(self.lines) <= spec.hard_lines:
            return []
        marked = [n for n, text in self.lines.items() if self._is_marked(text)]
        free = max(0, spec.hard_lines - len(self.pinned))
        room = max(0, free - spec.keep_lines) if spec.keep_lines else free // 2
        stays = self.pinned.union(marked[-room:] if room else ())
        keep = spec.keep_lines or max(0, spec.hard_lines - len(stays))
        rest = [number for number in self.lines if number not in stays]
        return rest[: max(0, len(rest) - keep)]

    def _is_marked(self, text: str) -> bool:
        mark = self.spec.pin_mark
        if not mark:
            return False
        return text.startswith(mark) or (
            self.spec.kind == "map" and key_and_value(text)[1].lstrip().startswith(mark)
        )

    def pack(self) -> None:
        """Takes the holes out of the dicts: they would be stepped over again and again."""
        if self.holes > _FEW_HOLES + len(self.lines):
            self.lines, self.ranks, self.holes = {**self.lines}, {**self.ranks}, 0


class MemoryTable:
    """All files' lines. Every change goes through here and leaves its record."""

    def __init__(self) -> None:
        self.files: dict[str, MemoryFile] = {}
        self.total = 0  # bytes of all files
        self._next_id = 0
        self._changes: list[dict[str, Any]] = []

    def changes(self) -> list[dict[str, Any]]:
        """Changes since the last call, JSON-ready and in order; `replay` rebuilds files from them."""
        taken, self._changes = self._changes, []
        return taken

    def create(self, name: str, spec: FileSpec) -> MemoryFile:
        """Adds an empty file."""
        self._changes.append({"op": "create", "file": name})
        self.files[name] = MemoryFile(spec)
        return self.files[name]

    def delete(self, name: str) -> None:
        """Takes a file away."""
        self.total -= self.files.pop(name).size
        self._changes.append({"op": "delete", "file": name})

    def append(self, name: str, texts: Sequence[str], key: str = "") -> tuple[int, ...]:
        """Adds lines at the end. A map's get their key: `key`, or what stands before their colon."""
        file = self.files[name]
        ids = self.insert(name, len(file.lines), texts)
        if file.spec.kind == "map":
            for number, text in zip(ids, texts, strict=True):
                own = key or key_and_value(text)[0]
                if own and own not in file.keys:
                    file.keys[own] = number
                    file.key_of[number] = own
        return ids

    def insert(self, name: str, at: int, texts: Sequence[str]) -> tuple[int, ...]:
        """Adds lines before the one at position `at`; returns their ids."""
        if not texts:
            return ()
        file = self.files[name]
        new = dict(zip(itertools.count(self._next_id), texts))
        self._next_id += len(new)
        file.pinned.update(itertools.islice(new, max(0, file.spec.pin_head - len(file.lines))))
        if at == len(file.lines):
            file.lines.update(new)
        else:
            old = list(file.lines.items())
            file.lines = dict(old[:at] + list(new.items()) + old[at:])
        for text in texts:
            file.known[normal(text)] += 1
            file.exact[text] += 1
        file.ranks.update(zip(new, itertools.count(file.given)))
        file.given += len(new)
        size = sum(map(stored_bytes, texts))
        file.size += size
        self.total += size
        lines = [[number, text] for number, text in new.items()]
        self._changes.append({"op": "insert", "file": name, "at": at, "lines": lines})
        return tuple(new)

    def remove(self, name: str, ids: Sequence[int]) -> None:
        """Takes lines away."""
        if not ids:
            return
        file = self.files[name]
        for number in ids:
            text = file.lines.pop(number)
            del file.ranks[number]
            file.pinned.discard(number)
            for counter, form in ((file.known, normal(text)), (file.exact, text)):
                counter[form] -= 1
                if not counter[form]:
                    del counter[form]
            if number in file.key_of:
                del file.keys[file.key_of.pop(number)]
            size = stored_bytes(text)
            file.size -= size
            self.total -= size
        file.holes += len(ids)
        file.pack()
        self._changes.append({"op": "remove", "file": name, "ids": list(ids)})


def replay(changes: Iterable[Mapping[str, Any]]) -> dict[str, Lines]:
    """Rebuilds every file's (id, text) lines from a trace's changes, as MemoryStore.snapshot does.

    Raises:
      ValueError: a change does not fit what came before it.
    """
    files: dict[str, dict[int, str]] = {}
    for change in changes:
        apply_change(files, change)
    return {name: tuple(lines.items()) for name, lines in files.items()}


def apply_change(files: dict[str, dict[int, str]], change: Mapping[str, Any]) -> None:
    """Applies one of a trace's changes to files (name -> line id -> text, in file order), in place.

    Raises:
      ValueError: it does not fit these files.
    """
    op, name = change["op"], change["file"]
    if op == "create":
        files[name] = {}
        return
    if name not in files:
        raise ValueError(
            f"memory change {op!r} on {name!r}, which does not exist; trace incomplete"
        )
    lines = files[name]
    if op == "insert":
        new = [(number, text) for number, text in change["lines"]]
        if change["at"] == len(lines):
            lines.update(new)
        else:
            old = list(lines.items())
            files[name] = dict(old[: change["at"]] + new + old[change["at"] :])
    elif op == "remove":
        for number in change["ids"]:
            if lines.pop(number, None) is None:
                raise ValueError(f"memory change removes line {number}, not in {name!r}")
    elif op == "delete":
        del files[name]
    else:
        raise ValueError(f"unknown memory change {op!r}; known: create, insert, remove, delete")
