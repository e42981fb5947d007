"""Conversations with an API on disk: paid for once, replayed as often as wanted.

A line an exchange, JSON: `key` (a hash of the whole request), `turn`, `request` (of its messages only
those that the exchange before did not have), `response` as the server gave it, `tries`. No key, header
or time stands in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automem_jax.architect.proposal import ArchitectError
from automem_jax.files import sync_directory

Json = dict[str, Any]


class ReplayError(ArchitectError):
    """A record cannot be read, or a request is not in it; the message names both."""


def request_key(kind: str, body: Mapping[str, Any]) -> str:
    """First 32 hex digits of the SHA-256 of a request and of the API it is for."""
    text = json.dumps([kind, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Recorder:
    """Appends exchanges to a file and knows those that are there.

    An exchange is on disk before `add` returns; a line torn by a kill is cut off on opening.

    Args:
      path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._known: dict[str, Json] = {}
        self._messages = 0
        if path is not None and path.exists():
            for row in _rows(path, mend=True):
                self._known[row["key"]] = row

    def find(self, key: str) -> Json | None:
        """The exchange with this request, or None."""
        return self._known.get(key)

    def add(self, key: str, turn: int, body: Mapping[str, Any], response: Json, tries: int) -> Json:
        """Keeps an exchange; returns its row."""
        row = {"key": key, "turn": turn, "request": dict(body), "response": response}
        row["tries"] = tries
        self._known[key] = row
        if self.path is None:
            return row
        messages = body["messages"]
        first = min(self._messages, len(messages)) if turn > 1 else 0
        self._messages = len(messages)
        told = {**body, "messages_before": first, "messages": messages[first:]}
        if turn > 1:  # as in the first
            told = {name: told[name] for name in ("messages_before", "messages")}
        line = json.dumps({**row, "request": told}, separators=(",", ":"), allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with open(self.path, "ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self.path.parent)
        return row


class Replay:
    """Answers requests from records alone.

    Args:
      place: a file of exchanges, or a directory that holds such files (*.jsonl) at any depth.

    Raises:
      ReplayError: there is no such file, or a line of it cannot be read.
    """

    def __init__(self, place: str | os.PathLike):
        self.place = Path(place)
        paths = sorted(self.place.rglob("*.jsonl")) if self.place.is_dir() else [self.place]
        if not paths or not paths[0].is_file():
            raise ReplayError(
                f"architect.replay: {place} holds no recorded conversation (*.jsonl); name the "
                "evolve/conversations directory of a run"
            )
        self._known: dict[str, tuple[Json, Path]] = {}
        for path in paths:
            for row in _rows(path):
                self._known[row["key"]] = (row, path)

    def find(self, key: str, what: str, body: Mapping[str, Any]) -> Json:
        """The exchange with this request.

        Raises:
          ReplayError: it is not there; `what` names it, and the model asked is told.
        """
        if key in self._known:
            return self._known[key][0]
        raise ReplayError(
            f"architect.replay: {what} (request {key[:12]}, model {body.get('model')!r}) is not in "
            f"{self.place}, which holds {len(self._known)} exchanges; the run differs from the recorded "
            "one in its traces, template, settings or version. Record it anew without architect.replay"
        )


def _rows(path: Path, *, mend: bool = False) -> list[Json]:
    """Whole lines of a record; a torn last one is left out, and cut off where `mend` says so."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read ({error})") from error
    whole = data[: data.rfind(b"\n") + 1]
    if mend and whole != data:
        with open(path, "r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    rows = []
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            good = isinstance(row["key"], str) and isinstance(row["response"], dict)
            good = good and isinstance(row["tries"], int)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise ReplayError(f"{path}:{number}: no recorded exchange; restore the file")
        rows.append(row)
    return rows
