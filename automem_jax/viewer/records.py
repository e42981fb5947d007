"""A trace's steps in the form that the page takes them: chunks, each text in them once.

A chunk holds some steps in a row and the files as they were before the first of them, so the page can
show any of its steps from the chunk alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CHUNK_STEPS = 16

# Bits of a step's flags; static/data.js names the same.
CALL_FAILED, OPERATION_FAILED, FALLBACK, UNKNOWN_ACTION, ENVIRONMENT_FAILED = 1, 2, 4, 8, 16
REJECTED, REPAIRED, UNPRODUCTIVE = 32, 64, 128

_TURN_FIELDS = ("role", "action", "done", "stripped_action", "rejected", "errors")
_ANSWER_FIELDS = ("finish_reason", "prompt_tokens", "completion_tokens", "error")
_PERCEPT_FIELDS = (
    "reward",
    "progression",
    "done",
    "end_reason",
    "action",
    "unknown_action",
    "failed",
    "changed",
)
_PERCEPT_TEXTS = ("long_text", "short_text", "map")


class Texts:
    """A table of texts; a text is its place in it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._place: dict[str, int] = {}

    def place(self, text: Any) -> int:
        """Where a text stands; it is added if it is new."""
        text = text if isinstance(text, str) else str(text)
        number = self._place.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number


def chunk(
    first: int, files: Mapping[str, Mapping[int, str]], steps: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Some steps, JSON-ready.

    Args:
      first: number of the first one in the trace, from 0.
      files: memory before it: file -> line id -> text.
      steps: full step records (`traces.compact.RecordUnpacker`).
    """
    texts = Texts()
    memory = {
        name: [[number, texts.place(text)] for number, text in lines.items()]
        for name, lines in files.items()
    }
    shown = [_step(step, texts) for step in steps]
    return {"first": first, "memory": memory, "steps": shown, "texts": texts.texts}


def percept(record: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """A percept with its texts in the table."""
    shown = {name: record[name] for name in _PERCEPT_FIELDS if record.get(name) is not None}
    return shown | {
        name: texts.place(record[name]) for name in _PERCEPT_TEXTS if record.get(name) is not None
    }


def _step(record: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    changes = []
    for change in record["memory"]:
        if change["op"] == "insert":
            change = {**change, "lines": [[n, texts.place(text)] for n, text in change["lines"]]}
        changes.append(change)
    return {
        "t": record["t"],
        "percept": percept(record["percept"], texts),
        "phases": [_phase(phase, texts) for phase in record["phases"]],
        "memory": changes,
        "action": record["action"],
        "source": record["action_source"],
        "proposed": record["proposed"],
        "errors": record["errors"],
    }


def _phase(phase: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    turns = []
    for turn in phase["turns"]:
        answer = turn["completion"] or {}
        turns.append(
            {name: turn[name] for name in _TURN_FIELDS}
            | {name: answer.get(name) for name in _ANSWER_FIELDS}
            | {
                "text": texts.place(answer.get("text", "")),
                "prompt": [[m["role"], texts.place(m["text"])] for m in turn["prompt"]],
                "operations": [_operation(o, texts) for o in turn["operations"]],
            }
        )
    return {"phase": phase["phase"], "shown": phase["shown"], "cuts": phase["cuts"], "turns": turns}


def _operation(operation: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    return {
        **operation,
        "args": [texts.place(text) for text in operation["args"]],
        "answer": texts.place(operation["answer"]),
    }


def flags(record: Mapping[str, Any]) -> int:
    """What of note happened in a step, as bits."""
    found = 0
    seen = record["percept"]
    if seen.get("unknown_action"):
        found |= UNKNOWN_ACTION
    if seen.get("failed"):
        found |= ENVIRONMENT_FAILED
    if seen.get("changed") is False:
        found |= UNPRODUCTIVE
    if record["action_source"] == "fallback":
        found |= FALLBACK
    if record["action_source"] == "repair":
        found |= REPAIRED
    for phase in record["phases"]:
        for turn in phase["turns"]:
            if (turn["completion"] or {}).get("error"):
                found |= CALL_FAILED
            if turn["rejected"] is not None:
                found |= REJECTED
            elif turn["errors"] or not all(o["ok"] for o in turn["operations"]):
                found |= OPERATION_FAILED
    return found


def documents(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What a search looks through: what was seen, said, operated, and put into memory.

    static/search.js makes the same of a chunk.
    """
    seen = record["percept"]
    said, operated = [], []
    for phase in record["phases"]:
        for turn in phase["turns"]:
            said.append((turn["completion"] or {}).get("text", ""))
            for operation in turn["operations"]:
                args = "|".join(map(str, operation["args"]))
                state = "" if operation["ok"] else " failed"
                operated.append(f"{operation['op']}{state} {args}\n{operation['answer']}")
    lines = [
        f"{change['file']}: {text}"
        for change in record["memory"]
        if change["op"] == "insert"
        for _, text in change["lines"]
    ]
    return (
        f"{seen.get('long_text') or ''}\n{seen.get('short_text') or ''}",
        "\n".join(said),
        "\n".join(operated),
        "\n".join(lines),
    )
