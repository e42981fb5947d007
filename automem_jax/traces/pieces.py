"""Texts that repeat others, as pieces; see compact.py for the forms that they have on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_LEAST_REPEAT = 24  # characters that are worth a reference
_LEAST_LINE = 6  # shorter lines are no place to start looking
_PLACES = 4  # newest places remembered of a line
_KEPT_STEPS = 4  # a text that nothing referred to for so long is forgotten
_REINDEX_STEPS = 64
_MOST_PIECES = 8  # a text in more pieces is looked for as a whole later on

Pieces = str | int | list[Any]


class Known:
    """The texts that a record may refer to; the same on both sides."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.used: dict[int, int] = {}  # text -> step of its last use
        self.lines: dict[int, str] = {}  # memory's, by id
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


class TextPacker:
    """Finds what of a text is known already."""

    def __init__(self) -> None:
        self.known = Known()
        self._whole: dict[str, int] = {}
        self._index: dict[str, list[tuple[int, int]]] = {}
        self._line_ids: dict[str, int] = {}

    def add_line(self, number: int, text: str) -> None:
        """A line that memory holds from now on."""
        self.known.lines[number] = text
        self._line_ids[text] = number

    def end_step(self) -> None:
        """Forgets what was not used for a while."""
        self.known.end_step()
        if self.known.step % _REINDEX_STEPS == 0:
            self._reindex()

    def pack(self, text: str) -> Pieces:
        """A text in pieces; from now on it can be referred to."""
        known = self.known
        number = self._whole.get(text)
        if number is not None and number in known.texts:
            known.used[number] = known.step
            return known.next - number
        packed = self._pieces(text)
        number = self.known.add(text)
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

    def remember(self, text: str) -> int | None:
        """From now on the text can be referred to by its number; None where it is too short."""
        number = self.known.add(text)
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
        return sum(len(self.known.lines[n]) + 1 for n in range(first, last + 1)) - 1

    def quote(self, text: str, said: Sequence[tuple[int, str]]) -> Pieces:
        """A text that a reply of this step may hold word for word."""
        if len(text) < _LEAST_REPEAT:
            return text
        for number, reply in said:
            start = reply.find(text)
            if start >= 0:
                return [self._refer(number, start, len(text))]
        return self._pieces(text)

    def _refer(self, number: int, start: int, length: int) -> list[int]:
        self.known.used[number] = self.known.step
        return [self.known.next - number, start, length]

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
        texts = self.known.texts
        best, number, start = 0, -1, 0
        for candidate, offset in self._index.get(line, ()) if len(line) >= _LEAST_LINE else ():
            source = texts.get(candidate)
            # Only what goes beyond the best so far is measured.
            if (
                source is not None
                and source[offset + best : offset + best + 1] == text[at + best : at + best + 1]
            ):
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
        lines, end, last = self.known.lines, at + len(line), number
        while (following := lines.get(last + 1)) is not None:
            stop = end + 1 + len(following)
            if text[end : end + 1] != "\n" or text[end + 1 : stop] != following:
                break
            if stop < len(text) and text[stop] != "\n":
                break
            end, last = stop, last + 1
        return [number, last], end - at

    def _index_lines(self, number: int, at: int, text: str) -> None:
        """Remembers where the lines of a part of a text start, which begins at character `at`; of
        equal lines in it the first."""
        begin = at
        index = self._index
        for line in text.split("\n"):
            size = len(line)
            if size >= _LEAST_LINE:
                places = index.get(line)
                if places is None:
                    index[line] = [(number, at)]
                elif places[-1][0] != number or places[-1][1] < begin:
                    places.append((number, at))
                    del places[:-_PLACES]
            at += size + 1

    def _reindex(self) -> None:
        self._whole, self._index = {}, {}
        for number, text in self.known.texts.items():
            self._whole[text] = number
            self._index_lines(number, 0, text)


class TextUnpacker:
    """Puts packed texts together again."""

    def __init__(self) -> None:
        self.known = Known()

    def fork(self) -> TextUnpacker:
        """One that reads on from here by itself; memory's lines, which only grow, are shared."""
        fork, known = TextUnpacker(), self.known
        fork.known.texts, fork.known.used = dict(known.texts), dict(known.used)
        fork.known.lines, fork.known.next, fork.known.step = known.lines, known.next, known.step
        return fork

    def unpack(self, packed: Pieces) -> str:
        """The text; from now on it can be referred to."""
        text = self.join(packed)
        if not isinstance(packed, int):
            self.known.add(text)
        return text

    def join(self, packed: Pieces) -> str:
        """The text, which nothing will refer to."""
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
                return "\n".join(self.known.lines[n] for n in range(first, last + 1))
            except KeyError as error:
                raise ValueError(
                    f"a text refers to memory line {error}, which is not known"
                ) from None
        back, start, length = piece
        return self._source(back)[start : start + length]

    def _source(self, back: int) -> str:
        number = self.known.next - back
        if number not in self.known.texts:
            raise ValueError(f"a text refers to text {number}, which is not known")
        self.known.used[number] = self.known.step
        return self.known.texts[number]


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
