"""Writing and reading trace files: `<directory>/<episode id>.jsonl`, `.partial` while running."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from automem_jax.text.messages import Completion, Message
from automem_jax.traces.compact import RecordPacker, RecordUnpacker
from automem_jax.traces.first_schema import FirstSchema
from automem_jax.traces.schema import (
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    PhaseRecord,
    Step,
    Trace,
    TraceError,
    Turn,
)

_PARTIAL = ".partial"
_HEADER_START = b'{"type":"header"'
_TAIL_BYTES = 1 << 16
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_REDO = "delete the file and run its stage again"


class TraceWriter:
    """Writes one episode. The file gets its final name only when the end record is on disk.

    An episode that is killed leaves `<id>.jsonl.partial`, which list_traces does not list and the
    next run of the same episode overwrites.
    """

    def __init__(
        self, directory: str | os.PathLike, episode: str, header: Mapping[str, Any]
    ) -> None:
        """Opens the file and writes the header line; `type`, `schema` and `episode` are added.

        Raises:
          ValueError: `episode` is not a plain file name.
        """
        if not episode or episode != pathlib.PurePath(episode).name or episode.startswith("."):
            raise ValueError(
                f"episode id {episode!r} is not a plain file name; use letters, digits, - _ ."
            )
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{episode}.jsonl"
        self._partial = self.path.with_name(self.path.name + _PARTIAL)
        self._file = open(self._partial, "wb")
        self._packer = RecordPacker()
        self.size = 0  # bytes written so far
        self._write({"type": "header", "schema": SCHEMA_VERSION, "episode": episode, **header})

    def step(self, record: Mapping[str, Any]) -> None:
        """Appends one step record (`Decision.record`) and hands it to the operating system."""
        self._write(record)

    def end(self, record: Mapping[str, Any]) -> pathlib.Path:
        """Appends the end record (`Agent.end_record`), syncs, renames; returns the final path."""
        self._write(record)
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self.path)
        return self.path

    def close(self) -> None:
        """Stops writing; an episode without its end record stays `.partial`. Safe to call twice."""
        self._file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        line = _line(self._packer.pack(record))
        self._file.write(line)
        self.size += len(line)
        self._file.flush()


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(record).encode() + b"\n"
    except UnicodeEncodeError:  # lone surrogates have no UTF-8 form, but JSON can escape them
        return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def list_traces(directory: str | os.PathLike) -> list[pathlib.Path]:
    """Finished traces under `directory`, at any depth, sorted by path. Missing directory: none."""
    return sorted(pathlib.Path(directory).rglob("*.jsonl"))


def iter_traces(directory: str | os.PathLike) -> Iterator[tuple[pathlib.Path, Trace]]:
    """Reads finished traces one after the other, sorted by path."""
    for path in list_traces(directory):
        yield path, read_trace(path)


def read_ends(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Header and end record as stored, from first and last lines alone; None where it has not ended.

    Raises:
      TraceError: the first line is no header. ValueError: the last one is no JSON.
    """
    with open(path, "rb") as file:
        if file.read(len(_HEADER_START)) != _HEADER_START:
            raise TraceError(f"{path}:1: expected a header; {_REDO}")
        file.seek(0)
        header = _parse(pathlib.Path(path), 1, file.readline())
        if str(path).endswith(_PARTIAL):
            return header, None
        size, reach = file.seek(0, os.SEEK_END), _TAIL_BYTES
        while True:
            file.seek(max(0, size - reach))
            lines = file.read().rstrip(b"\n").split(b"\n")
            if len(lines) > 1 or reach >= size:
                break
            reach *= 8
    record = json.loads(lines[-1])
    ended = isinstance(record, dict) and record.get("type") == "end"
    return header, record if ended else None


def read_trace(path: str | os.PathLike, last_step: int | None = None) -> Trace:
    """Reads one episode, finished or `.partial`. A torn last line is dropped.

    Args:
      last_step: where to stop: what comes after this step is not read, its end neither.

    Raises:
      TraceError: a line that is not the torn last one cannot be read, or the schema is unknown.
    """
    path = pathlib.Path(path)
    data = path.read_bytes()
    lines = data.split(b"\n")
    if last_step is not None and len(lines) > last_step + 2:
        lines = [*lines[: last_step + 2], b""]
    last = lines.pop()  # what follows the final newline: nothing, or a line torn by a kill
    records = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    if last:
        try:
            records.append(_parse(path, len(lines) + 1, last))
        except TraceError:
            pass
    if not records:
        raise TraceError(f"{path}:1: no header line; {_REDO}")
    header = records[0]
    if header.get("type") != "header":
        raise TraceError(f"{path}:1: expected a header, got type {header.get('type')!r}; {_REDO}")
    schema = header.get("schema")
    if schema not in READABLE_VERSIONS:
        raise TraceError(
            f"{path}:1: trace schema {schema!r}, this version reads "
            f"{', '.join(map(str, READABLE_VERSIONS))}; read it with the version that wrote it "
            "(header: versions) or run its stage again"
        )
    steps, end = [], None
    unpacker = FirstSchema() if schema == 1 else RecordUnpacker()
    for number, record in enumerate(records[1:], 2):
        kind = record.get("type")
        try:
            if end is not None:
                raise ValueError("a record after the end record")
            if kind == "step":
                steps.append(_step(unpacker.unpack(record)))
            elif kind == "end":
                end = unpacker.unpack(record)
            else:
                raise ValueError(f"unknown record type {kind!r}")
        except KeyError as error:
            raise TraceError(f"{path}:{number}: {kind} record lacks {error}; {_REDO}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise TraceError(f"{path}:{number}: {error}; {_REDO}") from error
    return Trace(header, steps, end)


def _parse(path: pathlib.Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:  # bad JSON or bad UTF-8
        raise TraceError(f"{path}:{number}: not a JSON line ({error}); {_REDO}") from error
    if not isinstance(record, dict):
        raise TraceError(f"{path}:{number}: expected a JSON object; {_REDO}")
    return record


def _step(record: Mapping[str, Any]) -> Step:
    phases = []
    for phase in record["phases"]:
        messages: tuple[Message, ...] = ()
        turns = []
        for index, turn in enumerate(phase["turns"]):
            messages += tuple(Message(m["role"], m["text"]) for m in turn["prompt"])
            turns.append(_turn(turn, index, messages))
        phases.append(
            PhaseRecord(phase["phase"], phase["shown"], tuple(turns), tuple(phase["cuts"]))
        )
    return Step(
        t=record["t"],
        percept=record["percept"],
        phases=tuple(phases),
        memory=tuple(record["memory"]),
        action=record["action"],
        action_source=record["action_source"],
        errors=tuple(record["errors"]),
        proposed=record["proposed"],
    )


def _turn(record: Mapping[str, Any], index: int, messages: tuple) -> Turn:
    answer = record["completion"]
    completion = Completion(
        text=answer["text"],
        token_ids=tuple(answer["token_ids"]),
        logprobs=tuple(answer["logprobs"]),
        finish_reason=answer["finish_reason"],
        prompt_tokens=answer["prompt_tokens"],
        completion_tokens=answer["completion_tokens"],
        error=answer["error"],
    )
    return Turn(
        role=record["role"],
        messages=messages,
        completion=completion,
        operations=tuple(record["operations"]),
        action=record["action"],
        done=record["done"],
        stripped_action=record["stripped_action"],
        errors=tuple(record["errors"]),
        index=index,
        rejected=record["rejected"],
    )
