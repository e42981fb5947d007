"""Records as they lie on disk: nothing is stored twice.

A text that repeats what stands elsewhere in the trace is stored as pieces:
  "words"                 themselves
  n                       a whole text, the n-th last one known
  [n, start, length]      a part of that text
  [first, last]           memory's lines of these ids, a newline between them
Known are the percepts' texts, the replies, the answers and the messages of the last few steps, in the
order in which a step's record names them, and every line memory ever held. Writer and reader keep the
same list, so a file is read from its start. What has its usual value is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.traces.pieces import TextPacker, TextUnpacker

_ROLES = {"system": "s", "user": "u", "assistant": "a"}
_ROLE_OF = {code: role for role, code in _ROLES.items()}
_PERCEPT_TEXTS = ("long_text", "short_text", "map")
_PERCEPT_USUAL = {
    "reward": 0.0,
    "done": False,
    "progression": 0.0,
    "end_reason": None,
    "action": None,
    "unknown_action": None,
    "failed": False,
}
_OPERATION_USUAL = {
    "ok": True,
    "answer": "",
    "error": None,
    "wrote": [],
    "read": [],
    "redundant": False,
    "empty": False,
}
_COMPLETION_USUAL = {
    "token_ids": [],
    "logprobs": [],
    "finish_reason": "stop",
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "error": None,
}
_TURN_USUAL = {
    "operations": [],
    "action": None,
    "done": False,
    "stripped_action": None,
    "rejected": None,
    "errors": [],
}
_PHASE_USUAL: dict[str, Any] = {"cuts": []}
_STEP_USUAL = {"action_source": "model", "errors": []}


class RecordPacker:
    """Full records in, records for the disk out, in the order of the episode."""

    def __init__(self) -> None:
        self._texts = TextPacker()
        self._shown: dict[tuple[str, str], list] = {}  # (phase, file) -> ranges last shown
        self._read: dict[str, list] = {}  # file -> ids last read

    def pack(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """One step's or the end's record, packed; others come back as they are."""
        kind = record.get("type")
        if kind == "end":
            percept = record.get("percept")
            return {**record, "percept": None if percept is None else self._percept(percept)}
        if kind != "step":
            return dict(record)
        packed = {"type": "step", "t": record["t"], "percept": self._percept(record["percept"])}
        replies = [
            turn["completion"]["text"]
            for phase in record["phases"]
            for turn in phase["turns"]
            if turn["completion"]
        ]
        numbers = [self._texts.remember(text) for text in replies]
        said = [(n, text) for n, text in zip(numbers, replies, strict=True) if n is not None]
        packed["memory"] = [self._change(change, said) for change in record["memory"]]
        packed["phases"] = [self._phase(phase, said) for phase in record["phases"]]
        packed["action"] = record["action"]
        if record["proposed"] != record["action"]:
            packed["proposed"] = record["proposed"]
        packed |= _unusual(record, _STEP_USUAL, (*packed, "proposed"))
        self._texts.end_step()
        return packed

    def _percept(self, percept: Mapping[str, Any]) -> dict[str, Any]:
        packed = {
            name: self._texts.pack(percept[name]) for name in _PERCEPT_TEXTS if name in percept
        }
        if "changed" in percept:
            packed["changed"] = percept["changed"]
        return packed | _unusual(percept, _PERCEPT_USUAL, _PERCEPT_TEXTS)

    def _change(self, change: Mapping[str, Any], said: Sequence[tuple[int, str]]) -> dict[str, Any]:
        if change["op"] != "insert":
            return dict(change)
        lines = change["lines"]
        texts = [self._texts.quote(text, said) for _, text in lines]
        for number, text in lines:
            self._texts.add_line(number, text)
        first = lines[0][0] if lines else 0
        if [number for number, _ in lines] != list(range(first, first + len(lines))):
            texts = [[number, text] for (number, _), text in zip(lines, texts, strict=True)]
            return {**change, "lines": texts}
        packed = {key: value for key, value in change.items() if key != "lines"}
        return packed | {"first": first, "texts": texts}

    def _phase(self, phase: Mapping[str, Any], said: Sequence[tuple[int, str]]) -> dict[str, Any]:
        shown = {}
        for file, ranges in phase["shown"].items():
            place = (phase["phase"], file)
            shown[file] = _difference(self._shown.get(place), ranges)
            self._shown[place] = ranges
        turns = [self._turn(turn, said) for turn in phase["turns"]]
        packed = {"phase": phase["phase"], "shown": shown, "turns": turns}
        return packed | _unusual(phase, _PHASE_USUAL, tuple(packed))

    def _turn(self, turn: Mapping[str, Any], said: Sequence[tuple[int, str]]) -> dict[str, Any]:
        prompt = []
        for message in turn["prompt"]:
            prompt.append([_ROLES[message["role"]], self._texts.pack(message["text"])])
        packed: dict[str, Any] = {"role": turn["role"], "prompt": prompt}
        if turn["completion"] is not None:
            answer = turn["completion"]
            packed["completion"] = _unusual(answer, _COMPLETION_USUAL)
        packed |= _unusual(turn, _TURN_USUAL, (*packed, "completion", "operations"))
        if turn["operations"]:
            packed["operations"] = [self._operation(o, said) for o in turn["operations"]]
        return packed

    def _operation(
        self, operation: Mapping[str, Any], said: Sequence[tuple[int, str]]
    ) -> dict[str, Any]:
        packed = _unusual(operation, _OPERATION_USUAL)
        packed["args"] = [self._texts.quote(text, said) for text in operation["args"]]
        if operation["read"]:
            file = operation["file"] or ""
            packed["read"] = _difference(self._read.get(file), operation["read"])
            self._read[file] = operation["read"]
        if operation["answer"]:
            packed["answer"] = self._texts.pack(operation["answer"])
        if operation["error"] is not None and operation["answer"] == f"error: {operation['error']}":
            packed["error"] = True  # the answer tells it
        return packed


class RecordUnpacker:
    """Records from the disk in, full records out, in the order of the file."""

    def __init__(self) -> None:
        self._texts = TextUnpacker()
        self._shown: dict[tuple[str, str], list] = {}
        self._read: dict[str, list] = {}

    def fork(self) -> RecordUnpacker:
        """One that reads on from here by itself; memory's lines, which only grow, are shared."""
        fork = RecordUnpacker()
        fork._texts = self._texts.fork()
        fork._shown, fork._read = dict(self._shown), dict(self._read)
        return fork

    def unpack(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The full record.

        Raises:
          KeyError: a field is missing.
          ValueError: a text refers to one that is not known.
        """
        kind = record.get("type")
        if kind == "end":
            percept = record.get("percept")
            return {**record, "percept": None if percept is None else self._percept(percept)}
        if kind != "step":
            return dict(record)
        full = _fresh(_STEP_USUAL) | record
        full.setdefault("proposed", record["action"])
        full["percept"] = self._percept(record["percept"])
        for phase in record["phases"]:
            for turn in phase["turns"]:
                if turn.get("completion"):
                    self._texts.known.add(turn["completion"]["text"])
        full["memory"] = [self._change(change) for change in record["memory"]]
        full["phases"] = [self._phase(phase) for phase in record["phases"]]
        self._texts.known.end_step()
        return full

    def _percept(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        texts = {
            name: self._texts.unpack(packed[name]) for name in _PERCEPT_TEXTS if name in packed
        }
        return _PERCEPT_USUAL | packed | texts

    def _change(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        if packed["op"] != "insert":
            return dict(packed)
        if "lines" in packed:
            lines = [[number, self._texts.join(text)] for number, text in packed["lines"]]
        else:
            texts = map(self._texts.join, packed["texts"])
            lines = [list(pair) for pair in enumerate(texts, packed["first"])]
        self._texts.known.lines.update(map(tuple, lines))
        kept = {key: value for key, value in packed.items() if key not in ("first", "texts")}
        return kept | {"lines": lines}

    def _phase(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        shown = {}
        for file, ranges in packed["shown"].items():
            place = (packed["phase"], file)
            ranges = _restored(self._shown.get(place), ranges)
            shown[file] = self._shown[place] = sorted(ranges)
        turns = [self._turn(turn) for turn in packed["turns"]]
        return _fresh(_PHASE_USUAL) | packed | {"shown": shown, "turns": turns}

    def _turn(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        prompt = []
        for code, text in packed["prompt"]:
            prompt.append({"role": _ROLE_OF[code], "text": self._texts.unpack(text)})
        turn = _fresh(_TURN_USUAL) | packed | {"prompt": prompt}
        completion = packed.get("completion")
        turn["completion"] = completion and _fresh(_COMPLETION_USUAL) | completion
        turn["operations"] = [self._operation(o) for o in turn["operations"]]
        return turn

    def _operation(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        operation = _fresh(_OPERATION_USUAL) | packed
        operation["args"] = [self._texts.join(text) for text in packed["args"]]
        if "read" in packed:
            file = packed["file"] or ""
            operation["read"] = _restored(self._read.get(file), packed["read"])
            self._read[file] = operation["read"]
        if "answer" in packed:
            operation["answer"] = self._texts.unpack(packed["answer"])
        if operation["error"] is True:
            operation["error"] = operation["answer"].removeprefix("error: ")
        return operation


def _unusual(
    record: Mapping[str, Any], usual: Mapping[str, Any], done: Sequence[str] = ()
) -> dict[str, Any]:
    """What is left to store of a record: no usual values, and nothing that is packed already."""
    missing = object()
    return {
        name: value
        for name, value in record.items()
        if name not in done and usual.get(name, missing) != value
    }


def _fresh(usual: Mapping[str, Any]) -> dict[str, Any]:
    """Usual values, lists not shared between records."""
    return {name: list(v) if isinstance(v, list) else v for name, v in usual.items()}


def _difference(before: list | None, now: list) -> list | dict[str, list]:
    """A list of ids or ranges by what left and what came since the last one, where that is shorter."""
    if before is None:
        return now
    if before == now:
        return {}
    old, new = set(map(_key, before)), set(map(_key, now))
    packed = {
        sign: part
        for sign, part in (
            ("-", [item for item in before if _key(item) not in new]),
            ("+", [item for item in now if _key(item) not in old]),
        )
        if part
    }
    shorter = sum(map(len, packed.values())) < len(now)
    restored = _restored(before, packed)
    same = restored == now or (_are_ranges(now) and sorted(restored) == now)
    return packed if shorter and same else now


def _restored(before: list | None, packed: list | Mapping[str, list]) -> list:
    if isinstance(packed, list):
        return packed
    gone = set(map(_key, packed.get("-", ())))
    return [i for i in before or () if _key(i) not in gone] + list(packed.get("+", ()))


def _are_ranges(items: list) -> bool:
    return bool(items) and isinstance(items[0], list)


def _key(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item
