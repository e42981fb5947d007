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

_LEAST_REPEAT = 24  # characters that are worth a reference
_LEAST_LINE = 6  # shorter lines are no place to start looking
_PLACES = 4  # newest places remembered of a line
_KEPT_STEPS = 4  # a text that nothing referred to for so long is forgotten
_REINDEX_STEPS = 64
_MOST_PIECES = 8  # a text in more pieces is looked for as a whole later on
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

Pieces = str | int | list[Any]


class _Known:
    """The texts that a record may refer to; the same on both sides."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.used: dict[int, int] = {}  # text -> step of its last use
        self.lines: dict[int, str] = {}  # memory's, by id
        self.shown: dict[tuple[str, str], list] = {}  # (phase, file) -> ranges last shown
        self.read: dict[str, list] = {}  # file -> ids last read
        self.next = 0
        self.step = 0

    def add(self, text: str) -> int | None:
        """Remembers a text; None where it is too short to be referred to."""
        if len(text) < _LEAST_REPEAT:
            return None
        number, self.next = self.next, self.next + 1
        self.texts[number] = text
        self.used[number] = self.step
        return number

    def end_step(self) -> None:
        """Forgets what was not used for a while."""
        self.step += 1
        for number in [n for n, used in self.used.items() if used < self.step - _KEPT_STEPS]:
            del self.texts[number], self.used[number]


class RecordPacker:
    """Full records in, records for the disk out, in the order of the episode."""

    def __init__(self) -> None:
        self._known = _Known()
        self._whole: dict[str, int] = {}
        self._index: dict[str, list[tuple[int, int]]] = {}
        self._line_ids: dict[str, int] = {}

    def pack(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """One step's or the end's record, packed; others come back as they are."""
        kind = record.get("type")
        if kind == "end":
            percept = record.get("percept")
            return {**record, "percept": None if percept is None else self._percept(percept)}
        if kind != "step":
            return dict(record)
        known = self._known
        packed = {"type": "step", "t": record["t"], "percept": self._percept(record["percept"])}
        replies = [
            turn["completion"]["text"]
            for phase in record["phases"]
            for turn in phase["turns"]
            if turn["completion"]
        ]
        numbers = [self._remember(text) for text in replies]
        said = [(n, text) for n, text in zip(numbers, replies, strict=True) if n is not None]
        packed["memory"] = [self._change(change, said) for change in record["memory"]]
        packed["phases"] = [self._phase(phase, said) for phase in record["phases"]]
        packed["action"] = record["action"]
        if record["proposed"] != record["action"]:
            packed["proposed"] = record["proposed"]
        packed |= _unusual(record, _STEP_USUAL, (*packed, "proposed"))
        known.end_step()
        if known.step % _REINDEX_STEPS == 0:
            self._reindex()
        return packed

    def _percept(self, percept: Mapping[str, Any]) -> dict[str, Any]:
        packed = {name: self._text(percept[name]) for name in _PERCEPT_TEXTS if name in percept}
        if "changed" in percept:
            packed["changed"] = percept["changed"]
        return packed | _unusual(percept, _PERCEPT_USUAL, _PERCEPT_TEXTS)

    def _change(self, change: Mapping[str, Any], said: Sequence[tuple[int, str]]) -> dict[str, Any]:
        if change["op"] != "insert":
            return dict(change)
        lines = change["lines"]
        texts = [self._quoted(text, said) for _, text in lines]
        for number, text in lines:
            self._known.lines[number] = text
            self._line_ids[text] = number
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
            shown[file] = _difference(self._known.shown.get(place), ranges)
            self._known.shown[place] = ranges
        turns = [self._turn(turn, said) for turn in phase["turns"]]
        packed = {"phase": phase["phase"], "shown": shown, "turns": turns}
        return packed | _unusual(phase, _PHASE_USUAL, tuple(packed))

    def _turn(self, turn: Mapping[str, Any], said: Sequence[tuple[int, str]]) -> dict[str, Any]:
        prompt = []
        for message in turn["prompt"]:
            prompt.append([_ROLES[message["role"]], self._text(message["text"])])
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
        packed["args"] = [self._quoted(text, said) for text in operation["args"]]
        if operation["read"]:
            file = operation["file"] or ""
            packed["read"] = _difference(self._known.read.get(file), operation["read"])
            self._known.read[file] = operation["read"]
        if operation["answer"]:
            packed["answer"] = self._text(operation["answer"])
        if operation["error"] is not None and operation["answer"] == f"error: {operation['error']}":
            packed["error"] = True  # the answer tells it
        return packed

    # --- texts ----------------------------------------------------------------------------------

    def _text(self, text: str) -> Pieces:
        """A text in pieces; from now on it can be referred to."""
        known = self._known
        number = self._whole.get(text)
        if number is not None and number in known.texts:
            known.used[number] = known.step
            return known.next - number
        packed = self._pieces(text)
        number = self._known.add(text)
        if number is not None:
            self._whole[text] = number
            # What was found in older texts is found there again, as long as that takes few pieces.
            if isinstance(packed, list) and len(packed) <= _MOST_PIECES:
                at = 0
                for piece in packed:
                    if isinstance(piece, str):
                        self._index_lines(number, at, piece)
                    at += self._length(piece)
            else:
                self._index_lines(number, 0, text)
        return packed

    def _remember(self, text: str) -> int | None:
        number = self._known.add(text)
        if number is not None:
            self._whole[text] = number
            self._index_lines(number, 0, text)
        return number

    def _length(self, piece: Any) -> int:
        """Characters that a piece stands for."""
        if isinstance(piece, str):
            return len(piece)
        if len(piece) == 3:
            return piece[2]
        first, last = piece
        return sum(len(self._known.lines[n]) + 1 for n in range(first, last + 1)) - 1

    def _quoted(self, text: str, said: Sequence[tuple[int, str]]) -> Pieces:
        """A text that a reply of this step may hold word for word."""
        if len(text) < _LEAST_REPEAT:
            return text
        for number, reply in said:
            start = reply.find(text)
            if start >= 0:
                return [self._refer(number, start, len(text))]
        return self._pieces(text)

    def _refer(self, number: int, start: int, length: int) -> list[int]:
        self._known.used[number] = self._known.step
        return [self._known.next - number, start, length]

    def _pieces(self, text: str) -> Pieces:
        pieces: list[Any] = []
        at, literal = (
            0,
            0,
        )  # always at the start of a line; characters from `literal` on are unpacked
        size = len(text)
        while size - at >= _LEAST_LINE:
            end = text.find("\n", at)
            end = size if end < 0 else end
            line = text[at:end]
            piece, length = self._longest(text, at, line)
            if length < _LEAST_REPEAT:
                piece, length = self._memory_run(text, at, line)
            if length:
                if literal < at:
                    pieces.append(text[literal:at])
                pieces.append(piece)
                at = literal = at + length
                if at and text[at - 1] != "\n":
                    end = text.find("\n", at)
                    at = size if end < 0 else end + 1
            else:
                at = end + 1
        if literal < size:
            pieces.append(text[literal:])
        if not pieces:
            return ""
        return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], str) else pieces

    def _longest(self, text: str, at: int, line: str) -> tuple[list[int] | None, int]:
        texts = self._known.texts
        best, number, start = 0, -1, 0
        for candidate, offset in self._index.get(line, ()) if len(line) >= _LEAST_LINE else ():
            source = texts.get(candidate)
            if source is not None:
                length = _shared(source, offset, text, at)
                if length > best:
                    best, number, start = length, candidate, offset
        if best < _LEAST_REPEAT:
            return None, 0
        return self._refer(number, start, best), best

    def _memory_run(self, text: str, at: int, line: str) -> tuple[list[int] | None, int]:
        number = self._line_ids.get(line)
        if number is None or len(line) < _LEAST_LINE:
            return None, 0
        lines, end, last = self._known.lines, at + len(line), number
        while (following := lines.get(last + 1)) is not None:
            stop = end + 1 + len(following)
            if text[end : end + 1] != "\n" or text[end + 1 : stop] != following:
                break
            if stop < len(text) and text[stop] != "\n":
                break
            end, last = stop, last + 1
        return [number, last], end - at

    def _index_lines(self, number: int, at: int, text: str) -> None:
        """Remembers where the lines of a part of a text start, which begins at character `at`."""
        seen = set()
        for line in text.split("\n"):
            if len(line) >= _LEAST_LINE and line not in seen:
                seen.add(line)
                places = self._index.setdefault(line, [])
                if len(places) == _PLACES:
                    del places[0]
                places.append((number, at))
            at += len(line) + 1

    def _reindex(self) -> None:
        self._whole, self._index = {}, {}
        for number, text in self._known.texts.items():
            self._whole[text] = number
            self._index_lines(number, 0, text)


class RecordUnpacker:
    """Records from the disk in, full records out, in the order of the file."""

    def __init__(self) -> None:
        self._known = _Known()

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
                    self._known.add(turn["completion"]["text"])
        full["memory"] = [self._change(change) for change in record["memory"]]
        full["phases"] = [self._phase(phase) for phase in record["phases"]]
        self._known.end_step()
        return full

    def _percept(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        texts = {name: self._text(packed[name]) for name in _PERCEPT_TEXTS if name in packed}
        return _PERCEPT_USUAL | packed | texts

    def _change(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        if packed["op"] != "insert":
            return dict(packed)
        if "lines" in packed:
            lines = [[number, self._join(text)] for number, text in packed["lines"]]
        else:
            texts = map(self._join, packed["texts"])
            lines = [list(pair) for pair in enumerate(texts, packed["first"])]
        self._known.lines.update(map(tuple, lines))
        kept = {key: value for key, value in packed.items() if key not in ("first", "texts")}
        return kept | {"lines": lines}

    def _phase(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        shown = {}
        for file, ranges in packed["shown"].items():
            place = (packed["phase"], file)
            ranges = _restored(self._known.shown.get(place), ranges)
            shown[file] = self._known.shown[place] = sorted(ranges)
        turns = [self._turn(turn) for turn in packed["turns"]]
        return _fresh(_PHASE_USUAL) | packed | {"shown": shown, "turns": turns}

    def _turn(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        prompt = []
        for code, text in packed["prompt"]:
            prompt.append({"role": _ROLE_OF[code], "text": self._text(text)})
        turn = _fresh(_TURN_USUAL) | packed | {"prompt": prompt}
        completion = packed.get("completion")
        turn["completion"] = completion and _fresh(_COMPLETION_USUAL) | completion
        turn["operations"] = [self._operation(o) for o in turn["operations"]]
        return turn

    def _operation(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        operation = _fresh(_OPERATION_USUAL) | packed
        operation["args"] = [self._join(text) for text in packed["args"]]
        if "read" in packed:
            file = packed["file"] or ""
            operation["read"] = _restored(self._known.read.get(file), packed["read"])
            self._known.read[file] = operation["read"]
        if "answer" in packed:
            operation["answer"] = self._text(packed["answer"])
        if operation["error"] is True:
            operation["error"] = operation["answer"].removeprefix("error: ")
        return operation

    def _text(self, packed: Pieces) -> str:
        text = self._join(packed)
        if not isinstance(packed, int):
            self._known.add(text)
        return text

    def _join(self, packed: Pieces) -> str:
        if isinstance(packed, str):
            return packed
        if isinstance(packed, int):
            return self._source(packed)
        return "".join(map(self._piece, packed))

    def _piece(self, piece: Any) -> str:
        if isinstance(piece, str):
            return piece
        if len(piece) == 2:
            first, last = piece
            try:
                return "\n".join(self._known.lines[n] for n in range(first, last + 1))
            except KeyError as error:
                raise ValueError(
                    f"a text refers to memory line {error}, which is not known"
                ) from None
        back, start, length = piece
        return self._source(back)[start : start + length]

    def _source(self, back: int) -> str:
        number = self._known.next - back
        if number not in self._known.texts:
            raise ValueError(f"a text refers to text {number}, which is not known")
        self._known.used[number] = self._known.step
        return self._known.texts[number]


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


def _shared(source: str, offset: int, text: str, at: int) -> int:
    """How many characters agree from these places on; slices, because they are faster than a loop."""
    most = min(len(source) - offset, len(text) - at)
    low, step = 0, 64
    while low < most and (
        source[offset + low : offset + low + step] == text[at + low : at + low + step]
    ):
        low = min(low + step, most)
        step *= 2
    high = min(low + step, most)
    while low < high:
        middle = (low + high + 1) // 2
        if source[offset + low : offset + middle] == text[at + low : at + middle]:
            low = middle
        else:
            high = middle - 1
    return low
