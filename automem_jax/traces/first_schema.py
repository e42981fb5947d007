"""Reads traces of schema 1: everything in full, but prompts.

A phase's first prompt was stored against the previous first prompt of the same phase: of each message,
how many leading characters to keep and what follows them. Later turns stored the appended messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FirstSchema:
    """Records of schema 1 in, full records of this version out, in the order of the file."""

    def __init__(self) -> None:
        self._first: dict[str, list[dict[str, str]]] = {}

    def fork(self) -> FirstSchema:
        """One that reads on from here by itself."""
        fork = FirstSchema()
        fork._first = dict(self._first)
        return fork

    def unpack(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The full record.

        Raises:
          KeyError: a field is missing.
          ValueError: a prompt keeps more characters than the earlier one has.
        """
        if record.get("type") != "step":
            return dict(record)
        return {**record, "phases": [self._phase(phase) for phase in record["phases"]]}

    def _phase(self, phase: Mapping[str, Any]) -> dict[str, Any]:
        turns = [{"rejected": None, **turn} for turn in phase["turns"]]
        if turns:
            before = self._first.get(phase["phase"], [])
            rebuilt = [_rebuild(before, i, item) for i, item in enumerate(turns[0]["prompt"])]
            turns[0]["prompt"] = self._first[phase["phase"]] = rebuilt
        return {"cuts": [], **phase, "turns": turns}


def _rebuild(before: list[dict[str, str]], index: int, item: Mapping[str, Any]) -> dict[str, str]:
    base, keep = before[index]["text"] if index < len(before) else "", item["keep"]
    if keep > len(base):
        raise ValueError(
            f"message {index} keeps {keep} characters of an earlier one of {len(base)}"
        )
    return {"role": item["role"], "text": base[:keep] + item["text"]}
