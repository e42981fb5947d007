"""One trace, opened for looking at any step of it.

Records refer to earlier ones, so a trace can only be read from its start. One pass in a thread reads
it through and leaves, every few steps, a place from which reading can go on; by the way it collects
what the timeline, the search and the lineage of lines need. A step is then read from the place before
it. The pass can stop at the end of a growing file and go on later.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automem_jax.agent.grammar import READ_OPERATIONS, WRITE_OPERATIONS
from automem_jax.agent.memory_table import apply_change
from automem_jax.traces.compact import RecordUnpacker
from automem_jax.traces.first_schema import FirstSchema
from automem_jax.traces.schema import READABLE_VERSIONS, TraceError
from automem_jax.viewer import records
from automem_jax.viewer.lines import LineTable

MOST_HITS = 1000
SCOPES = ("all", "seen", "said", "operations", "memory")
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
_EXCERPT = 60  # characters on each side of what was found


@dataclass
class _Place:
    """Where reading can go on: the reader as it was, and memory's lines by file."""

    unpacker: RecordUnpacker | FirstSchema
    files: dict[str, list[int]]


@dataclass
class Columns:
    """One value a step. `action` is a number in `actions`; `flags` are bits, see records.flags.

    `reward` and `progression` are of the step that led to this percept; `writes` and `reads` count
    executed memory operations; `lines` is how many lines memory holds after the step.
    """

    action: list[int] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    progression: list[float] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


class TraceIndex:
    """See the module. Safe to use from several threads; `close` it when done."""

    def __init__(self, path: str | os.PathLike) -> None:
        """Opens the file and starts to read it.

        Raises:
          TraceError: no header line, or a schema that this version does not read.
          OSError: the file cannot be opened.
        """
        self._name = Path(path).name
        self._file = open(path, "rb")
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise
        self.problem: str | None = None
        self._end: dict[str, Any] | None = None
        self._offsets = [self._file.tell()]  # of the steps' lines, and of what follows the last
        self._places: list[_Place] = []
        self._columns = Columns()
        self._actions: dict[str, int] = {}
        self._documents: list[tuple[str, str, str, str]] = []
        self._lines = LineTable()
        self._files: dict[str, dict[int, str]] = {}
        self._texts: dict[int, str] = {}
        self._unpacker = RecordUnpacker() if self.header["schema"] > 1 else FirstSchema()
        self._changed = threading.Condition()
        self._reading = False
        self._closed = False
        self.go_on()

    @property
    def inode(self) -> int:
        """The open file's; another one at the same path is another episode."""
        return os.fstat(self._file.fileno()).st_ino

    @property
    def finished(self) -> bool:
        """Nothing will be added: the end record was read, or a line that cannot be."""
        return self._end is not None or self.problem is not None

    def go_on(self) -> None:
        """Reads on where the file has grown; returns at once."""
        with self._changed:
            if self._reading or self.finished or self._closed:
                return
            self._reading = True
        threading.Thread(target=self._pass, name="read trace", daemon=True).start()

    def wait(self) -> None:
        """Waits until all that the file holds has been read."""
        with self._changed:
            self._changed.wait_for(lambda: not self._reading)

    def close(self) -> None:
        """Stops reading and closes the file."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._reading)
        self._file.close()

    def about(self) -> dict[str, Any]:
        """The header, and how many steps a chunk has."""
        return {"header": self.header, "chunk_steps": records.CHUNK_STEPS}

    def summary(self, first: int = 0) -> dict[str, Any]:
        """The columns from step `first` to the last one read so far, and what else is known by now.

        `reading` tells that there is more to come at once, `end` is None while the episode runs.
        """
        with self._changed:
            steps = len(self._columns.lines)
            columns = {name: values[first:steps] for name, values in vars(self._columns).items()}
            return {
                "first": first,
                "steps": steps,
                "columns": columns,
                "actions": list(self._actions),
                "reading": self._reading,
                "end": self._end,
                "problem": self.problem,
            }

    def chunk(self, number: int) -> dict[str, Any]:
        """Steps `number * CHUNK_STEPS` and the ones after it; waits until they have been read.

        Raises:
          ValueError: the trace has no such chunk.
        """
        first = number * records.CHUNK_STEPS
        with self._changed:
            self._changed.wait_for(
                lambda: not self._reading or len(self._offsets) > first + records.CHUNK_STEPS
            )
            if not 0 <= first < len(self._offsets) - 1:
                raise ValueError(f"chunk {number}: the trace has {len(self._offsets) - 1} steps")
            place = self._places[number]
            last = min(first + records.CHUNK_STEPS, len(self._offsets) - 1)
            start, stop = self._offsets[first], self._offsets[last]
        unpacker = place.unpacker.fork()
        data = os.pread(self._file.fileno(), stop - start, start)
        steps = [unpacker.unpack(json.loads(line)) for line in data.splitlines()]
        files = {name: {n: self._texts[n] for n in ids} for name, ids in place.files.items()}
        return records.chunk(first, files, steps)

    def chunks(self) -> Iterator[dict[str, Any]]:
        """Every chunk, in order."""
        self.wait()
        for number in range(len(self._places)):
            yield self.chunk(number)

    def lines(self) -> dict[str, Any]:
        """Every line that memory ever held, with its writer and readers; see LineTable.table."""
        self.wait()
        return self._lines.table()

    def search(self, query: str, scope: str = "all") -> dict[str, Any]:
        """Steps whose texts hold `query`, upper and lower case alike.

        Returns:
          hits: [step, scope, text before, found, text after], at most one a step and scope and
          MOST_HITS together; `more` tells that there were others.

        Raises:
          ValueError: no such scope.
        """
        if scope not in SCOPES:
            raise ValueError(f"scope {scope!r}; known: {', '.join(SCOPES)}")
        self.wait()
        wanted = query.lower()
        hits: list[list[Any]] = []
        for t, texts in enumerate(self._documents if wanted else ()):
            for name, text in zip(SCOPES[1:], texts, strict=True):
                if scope not in ("all", name):
                    continue
                at = text.lower().find(wanted)
                if at < 0:
                    continue
                if len(hits) == MOST_HITS:
                    return {"hits": hits, "more": True}
                stop = at + len(query)
                before, after = text[max(0, at - _EXCERPT) : at], text[stop : stop + _EXCERPT]
                hits.append([t, name, before, text[at:stop], after])
        return {"hits": hits, "more": False}

    def _read_header(self) -> dict[str, Any]:
        try:
            header = json.loads(self._file.readline())
            schema = header["schema"]
        except _MALFORMED as error:
            raise TraceError(f"{self._name}:1: no readable header ({error})") from error
        if header.get("type") != "header" or schema not in READABLE_VERSIONS:
            known = ", ".join(map(str, READABLE_VERSIONS))
            raise TraceError(f"{self._name}:1: schema {schema!r}; this version reads {known}")
        return header

    def _pass(self) -> None:
        try:
            while not self._closed and not self.finished:
                self._file.seek(self._offsets[-1])
                line = self._file.readline()
                if not line.endswith(b"\n"):
                    break  # the end, or a line that is being written
                try:
                    self._take(line)
                except _MALFORMED as error:
                    number = len(self._offsets) + 1
                    self.problem = f"line {number} cannot be read ({error})"
        finally:
            with self._changed:
                self._reading = False
                self._changed.notify_all()

    def _take(self, line: bytes) -> None:
        stored = json.loads(line)
        if stored.get("type") == "end":
            end = self._unpacker.unpack(stored)
            texts = records.Texts()
            seen = end.get("percept")
            end["percept"] = seen and records.percept(seen, texts)
            self._end = end | {"texts": texts.texts}
            return
        number = len(self._offsets) - 1
        if number % records.CHUNK_STEPS == 0:
            files = {name: list(lines) for name, lines in self._files.items()}
            self._places.append(_Place(self._unpacker.fork(), files))
        record = self._unpacker.unpack(stored)
        row = self._row(record)
        documents = records.documents(record)
        for change in record["memory"]:
            apply_change(self._files, change)
            if change["op"] == "insert":
                self._texts.update((n, text) for n, text in change["lines"])
        self._lines.follow(number, record)
        held = sum(map(len, self._files.values()))
        with self._changed:
            self._documents.append(documents)
            for name, value in row.items():
                getattr(self._columns, name).append(value)
            self._columns.lines.append(held)
            self._offsets.append(self._offsets[-1] + len(line))
            if len(self._offsets) % records.CHUNK_STEPS == 1:
                self._changed.notify_all()

    def _row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        action = str(record["action"])
        counts = {"writes": 0, "reads": 0}
        for phase in record["phases"]:
            for turn in phase["turns"]:
                for operation in turn["operations"]:
                    if operation["ok"]:
                        counts["writes"] += operation["op"] in WRITE_OPERATIONS
                        counts["reads"] += operation["op"] in READ_OPERATIONS
        return counts | {
            "action": self._actions.setdefault(action, len(self._actions)),
            "reward": float(record["percept"]["reward"]),
            "progression": round(float(record["percept"]["progression"]), 6),
            "flags": records.flags(record),
        }
