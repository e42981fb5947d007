"""The language of memory operations: one positional tokenizer, one printer.

`<|OP|>file|text<|END|>` asks for a memory operation, `<|DONE|>` closes a phase and
`<|ACTION|>name<|END|>` commits a game action. Everything else is free text. An operation closes at
END, at the next operation, or at the end of the text. Tolerated: missing pipes, lower case, `}` for
the last `>`, `</OP>` for END, code fences around or after operations.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

READ_OPERATIONS = ("READ", "SEARCH", "TAIL", "COUNT")
WRITE_OPERATIONS = ("APPEND", "WRITE", "CREATE", "UPSERT", "CHECK", "DELETE")
OPERATIONS = READ_OPERATIONS + WRITE_OPERATIONS

# Every quantifier is bounded, so a search over the text takes linear time.
_TAG = re.compile(
    r"<(?P<slash>/?)(?P<left>\|?) {0,4}(?P<name>[A-Za-z][A-Za-z_]{0,63}) {0,4}(?P<right>\|?)[>}]"
)
_TORN_TAG = re.compile(r"<\|[A-Za-z_]{0,64}\|?$")  # generation stopped inside a tag
_MARKERS = ("END", "DONE", "ACTION")


@dataclass(frozen=True)
class Operation:
    """One operation as written: name in upper case, arguments split at the first `|`, and the
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


def parse(text: str, vocabulary: Iterable[str] = OPERATIONS) -> Parsed:
    """Takes a reply apart. Never raises; time is linear in the text.

    Args:
      text: the model's reply.
      vocabulary: operation names that exist (upper case). Whether one is allowed here and now is
        not the grammar's business.
    """
    vocabulary = frozenset(vocabulary)
    known = vocabulary.union(_MARKERS)
    tags = _tags(text, known)
    operations: list[Operation] = []
    errors: list[str] = []
    actions: list[tuple[int, int]] = []
    action: str | None = None
    done_start: int | None = None
    for i, (name, start, content_start) in enumerate(tags):
        if name == "END":
            continue
        if name == "DONE":
            done_start = start if done_start is None else done_start
            continue
        content, end = _content(text, content_start, tags[i + 1] if i + 1 < len(tags) else None)
        if name == "ACTION":
            actions.append((start, end))
            words = content.strip()
            if words:
                action = words.splitlines()[0].strip()
            else:
                action = None
                errors.append("ACTION names no action; write <|ACTION|>name<|END|>")
        elif name in vocabulary:
            args = tuple(part.strip() for part in content.split("|", 1)) if content.strip() else ()
            operations.append(Operation(name, args, start, end))
        else:
            errors.append(f"{name}: no such operation{_nearest(name, known)}")
    return Parsed(
        tuple(operations), action, done_start is not None, tuple(errors), tuple(actions), done_start
    )


def format_operation(op: str, *args: str) -> str:
    """Prints an operation so that `parse` gives back the same name and arguments.

    Raises:
      ValueError: an argument cannot be written in the grammar (a `|` in the first, a tag in any,
        white space at its ends, more than two arguments, a single empty one).
    """
    op = op.upper()
    text = f"<|{op}|>{'|'.join(args)}<|END|>"
    parsed = parse(text, (op,))
    wanted = (Operation(op, args, 0, len(text)),)
    if parsed.operations != wanted or parsed.action or parsed.done or parsed.errors:
        raise ValueError(
            f"{op}{args!r} cannot be written as an operation; remove tags, outer white space and "
            "`|` in the first argument"
        )
    return text


def _tags(text: str, known: frozenset[str]) -> list[tuple[str, int, int]]:
    """(name, start, end) of everything that is a tag; other angle brackets are plain text."""
    tags = []
    judged: dict[str, bool] = {}
    for match in _TAG.finditer(text):
        name = match["name"].upper()
        if match["slash"]:
            if name not in known:
                continue
            name = "END"
        elif name not in known and not (match["left"] or match["right"]):
            # Without pipes only a misspelt operation is taken for a tag: `<b>` is text.
            if not match["name"].isupper():
                continue
            if name not in judged:
                judged[name] = bool(difflib.get_close_matches(name, known, n=1, cutoff=0.75))
            if not judged[name]:
                continue
        tags.append((name, match.start(), match.end()))
    return tags


def _content(text: str, start: int, following: tuple[str, int, int] | None) -> tuple[str, int]:
    """What stands between a tag and its close, and where the operation's span ends."""
    if following is not None and following[0] == "END":
        return text[start : following[1]], following[2]
    stop = following[1] if following is not None else len(text)
    while True:  # white space, fences and half a tag at an open end belong to no argument
        before = stop
        while stop > start and text[stop - 1].isspace():
            stop -= 1
        if text.endswith("```", start, stop):
            stop -= 3
        if torn := _TORN_TAG.search(text, max(start, stop - 70), stop):
            stop = torn.start()
        if stop == before:
            return text[start:stop], stop


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
