"""The language of memory operations: one positional tokenizer, one printer.

`<|OP|>file|text<|END|>` asks for a memory operation, `<|DONE|>` closes a phase and
`<|ACTION|>name<|END|>` commits a game action. Everything else is free text. An operation closes at
END, at the next operation, or at the end of the text. Tolerated: missing pipes, lower case, `}` for
the last `>`, `<|END|` for END, `</OP>` for END, code fences around or after operations. What looks
like an operation and cannot be one is an error in words for the model.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

READ_OPERATIONS = ("READ", "SEARCH", "TAIL", "COUNT")
WRITE_OPERATIONS = ("APPEND", "WRITE", "CREATE", "UPSERT", "CHECK", "DELETE")
OPERATIONS = READ_OPERATIONS + WRITE_OPERATIONS
MARKERS = ("END", "DONE", "ACTION")

_NAME = r"[A-Za-z][A-Za-z_]{0,63}"
_TORN_TAG = re.compile(r"<\|(?P<name>[A-Za-z_]{0,64})\|?$")  # generation stopped inside a tag
_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_MOST_OPERATIONS = 100_000  # a reply's further ones are counted, not read
_MOST_ERRORS = 100
_MOST_ACTION_CHARS = 200
_MOST_FENCES = 100
_WINDOW = 4096


@dataclass(frozen=True)
class Operation:
    """One operation as written: its canonical name, arguments split at the first `|`, and the
    character span [start, end) of the reply, closing tag included."""

    op: str
    args: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Parsed:
    """A reply taken apart.

    Attributes:
      operations: in the order written.
      action: the last ACTION's text; None if there is none.
      done: a DONE was written.
      errors: what looks like an operation and cannot be one, in words for the model.
      action_spans: character spans of all ACTIONs, the last one being the one taken.
      done_start: character at which the first DONE starts; None if there is none.
    """

    operations: tuple[Operation, ...]
    action: str | None
    done: bool
    errors: tuple[str, ...]
    action_spans: tuple[tuple[int, int], ...] = ()
    done_start: int | None = None


def spellings(renamed: Mapping[str, str] | None = None) -> dict[str, str]:
    """The vocabulary of a template: spelling -> operation, for all operations.

    Args:
      renamed: operation -> its spelling (`Template.operations`); others keep their name.
    """
    renamed = renamed or {}
    return {renamed.get(op, op): op for op in OPERATIONS}


def parse(text: str, vocabulary: Iterable[str] | Mapping[str, str] = OPERATIONS) -> Parsed:
    """Takes a reply apart. Never raises; time is linear in the text.

    Args:
      text: the model's reply.
      vocabulary: operation names that exist (upper case), or spelling -> operation, as `spellings`
        gives it. Whether one is allowed here and now is not the grammar's business.
    """
    if not isinstance(vocabulary, Mapping):
        vocabulary = {name: name for name in vocabulary}
    known = frozenset(vocabulary).union(MARKERS)
    tags = _Tags(text, known)
    operations: list[Operation] = []
    errors = _Errors()
    actions: list[tuple[int, int]] = []
    action: str | None = None
    done_start: int | None = None
    left = 0
    tag = tags.following()
    while tag is not None:
        name, start, content_start = tag
        following = tags.following()
        if name == "DONE":
            done_start = start if done_start is None else done_start
        elif name == "ACTION":
            content, end = _content(text, content_start, following)
            if len(actions) < _MOST_OPERATIONS:
                actions.append((start, end))
            else:
                actions[-1] = (start, end)
            action = _action(content, errors)
        elif name in vocabulary and len(operations) == _MOST_OPERATIONS:
            left += 1
        elif name in vocabulary:
            content, end = _content(text, content_start, following)
            args = tuple(part.strip() for part in content.split("|", 1)) if content.strip() else ()
            operations.append(Operation(vocabulary[name], args, start, end))
        elif name != "END":
            errors.add(f"{name}: no such operation", _Remedy(name, vocabulary))
        tag = following
    if left:
        errors.add(f"only {_MOST_OPERATIONS} operations are read; {left} more were not")
    _half_tags(text, known, errors)
    return Parsed(
        operations=tuple(operations),
        action=action,
        done=done_start is not None,
        errors=errors.all(),
        action_spans=tuple(actions),
        done_start=done_start,
    )


def format_operation(op: str, *args: str, spelling: str = "") -> str:
    """Prints an operation so that `parse` gives back the same name and arguments.

    Args:
      op: the operation. args: its file and text. spelling: what it is called, if not by its name.

    Raises:
      ValueError: an argument cannot be written in the grammar (a `|` in the first, a tag in any,
        white space at its ends, more than two arguments, a single empty one).
    """
    op = op.upper()
    name = spelling or op
    text = f"<|{name}|>{'|'.join(args)}<|END|>"
    parsed = parse(text, {name: op})
    wanted = (Operation(op, args, 0, len(text)),)
    if parsed.operations != wanted or parsed.action or parsed.done or parsed.errors:
        raise ValueError(
            f"{op}{args!r} cannot be written as an operation; remove tags, outer white space and "
            "`|` in the first argument"
        )
    return text


class _Errors:
    """A reply's errors, each with what may mend it; those above a limit are counted."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._more = 0

    def add(self, text: str, remedy: str | _Remedy = "") -> None:
        if len(self._texts) == _MOST_ERRORS:
            self._more += 1
            return
        self._texts.append(text + (remedy if isinstance(remedy, str) else remedy()))

    def all(self) -> tuple[str, ...]:
        more = [f"{self._more} more errors like these"] if self._more else []
        return (*self._texts, *more)


class _Remedy:
    """Looks for the nearest name only when it is asked for."""

    def __init__(self, name: str, vocabulary: Mapping[str, str]) -> None:
        self._name, self._vocabulary = name, vocabulary

    def __call__(self) -> str:
        for spelling, op in self._vocabulary.items():
            if op == self._name:
                return f"; it is written {spelling} here"
        known = sorted({*self._vocabulary, *MARKERS})
        near = difflib.get_close_matches(self._name, known, n=1, cutoff=0.5)
        return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


@functools.lru_cache(maxsize=64)
def _tag_pattern(known: frozenset[str]) -> re.Pattern:
    """All that may be a tag. Every quantifier is bounded: a search takes linear time.

    In this order: a known name, pipes or not; anything between two pipes; a name with one pipe; and a
    name in capitals without pipes, which is a tag only if it resembles a known one: `<b>` is text.
    """
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    return re.compile(
        r"<(?=[/| A-Za-z])(?!\|<)(?:"
        rf"(?P<slash>/?)\|? {{0,4}}(?P<known>(?i:{names})) {{0,4}}\|?[>}}]"
        r"|\|(?i:END)\|"
        r"|\|(?P<piped>[^<>|{}\s][^<>|{}\n]{0,63})\|[>}]"
        rf"|(?:\| {{0,4}}(?P<left>{_NAME}) {{0,4}}| {{0,4}}(?P<right>{_NAME}) {{0,4}}\|)[>}}]"
        r"| {0,4}(?P<bare>[A-Z][A-Z_]{0,63}) {0,4}[>}])"
    )


@functools.lru_cache(maxsize=64)
def _half_pattern(known: frozenset[str]) -> re.Pattern:
    """A known name after `<|`, or between `<` and `|`, whose tag is not closed."""
    names = "|".join(sorted(map(re.escape, known - {"END"}), key=len, reverse=True))
    return re.compile(
        r"<(?=\|[ A-Za-z]|[A-Z])"
        rf"(?:\| {{0,4}}(?P<left>(?i:{names}))(?!\w)|(?P<right>{names})(?=\|))"
        r"(?! {0,4}\|?[>}])"
    )


class _Tags:
    """The tags of a text, one after the other; other angle brackets are plain text."""

    def __init__(self, text: str, known: frozenset[str]) -> None:
        self._known = known
        self._matches = _tag_pattern(known).finditer(text)
        self._judged: dict[str, bool] = {}

    def following(self) -> tuple[str, int, int] | None:
        """(name, start, end) of the next tag; None after the last."""
        for match in self._matches:
            name = self._name(match)
            if name:
                return name, match.start(), match.end()
        return None

    def _name(self, match: re.Match) -> str:
        if match.lastgroup is None:
            return "END"
        if match["known"]:
            return "END" if match["slash"] else match["known"].upper()
        name = (match["piped"] or match["left"] or match["right"] or "").strip().upper()
        return name or (match["bare"] if self._resembles(match["bare"]) else "")

    def _resembles(self, name: str) -> bool:
        if name not in self._judged:
            if len(self._judged) >= 1000:  # hostile; judging one takes microseconds
                return False
            near = difflib.get_close_matches(name, self._known, n=1, cutoff=0.75)
            self._judged[name] = bool(near)
        return self._judged[name]


def _half_tags(text: str, known: frozenset[str], errors: _Errors) -> None:
    """Tags that were begun and not closed: their operations are not executed, and this says so."""
    for count, match in enumerate(_half_pattern(known).finditer(text)):
        if count == _MOST_ERRORS:
            break
        name = (match["left"] or match["right"]).upper()
        if match.end() < len(text):
            errors.add(f"{name}: its tag is not closed; write <|{name}|>")
    torn = _TORN_TAG.search(text, max(0, len(text) - 70))
    if torn and torn["name"]:
        begun = torn["name"].upper()
        if any(name.startswith(begun) for name in known) and not "END".startswith(begun):
            errors.add(f"the reply breaks off inside {torn[0]}; write the operation again")


def _action(content: str, errors: _Errors) -> str | None:
    words = content.strip()
    line_break = _LINE_BREAK.search(words)
    name = (words[: line_break.start()] if line_break else words).strip()
    if not name:
        errors.add("ACTION names no action; write <|ACTION|>name<|END|>")
    elif len(name) > _MOST_ACTION_CHARS:
        errors.add(f"ACTION holds {len(name)} characters; write one action's name")
    else:
        return name
    return None


def _content(text: str, start: int, following: tuple[str, int, int] | None) -> tuple[str, int]:
    """What stands between a tag and its close, and where the operation's span ends."""
    if following is not None and following[0] == "END":
        return text[start : following[1]], following[2]
    # White space, fences and half a tag at an open end belong to no argument.
    stop = _without_space(text, start, following[1] if following is not None else len(text))
    for _ in range(_MOST_FENCES):
        if text.endswith("```", start, stop):
            stop = _without_space(text, start, stop - 3)
        elif torn := _TORN_TAG.search(text, max(start, stop - 70), stop):
            stop = _without_space(text, start, torn.start())
        else:
            break
    return text[start:stop], stop


def _without_space(text: str, start: int, stop: int) -> int:
    """Where text[start:stop] ends without its trailing white space; copies no long text."""
    while stop > start:
        window = text[max(start, stop - _WINDOW) : stop]
        kept = len(window.rstrip())
        stop -= len(window) - kept
        if kept:
            break
    return stop
