"""What a line, a key and a file's name are: one spelling each, whatever the model wrote."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

Lines = tuple[tuple[int, str], ...]

_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)*")
# Control characters, lone surrogates, and marks that turn the direction of writing.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    r"\ud800-\udfff]"
)
_WORD = re.compile(r"\w+")


def file_name(text: str, limit: int) -> str:
    """The one spelling of a file's name: case folded, folders kept apart, nothing above the root.

    Raises:
      ValueError: too long, or not a name; in words for the model.
    """
    shown = quoted(text)
    too_long = f"file name {shown} is too long; at most {limit} characters"
    if len(text) > 4 * limit:
        raise ValueError(too_long)
    first_line = (text.splitlines() or [""])[0]
    name = _folded(first_line).replace("\\", "/")
    name = "_".join(name.split()).strip("`'\"")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    name = "/".join(parts)
    if ".." in parts or not _NAME.fullmatch(name):
        raise ValueError(f"bad file name {shown}; use letters, digits, _ and -")
    if len(name) > limit:
        raise ValueError(too_long)
    return name


def clean(line: str) -> str:
    """One line without control characters, lone surrogates and white space at its end."""
    line = " ".join(line.splitlines())
    if not line.isascii():
        line = unicodedata.normalize("NFC", line)
    return _UNPRINTABLE.sub("\ufffd", line).rstrip()


def split_lines(text: str) -> list[str]:
    """A text's clean lines, without blank ones."""
    return [line for line in map(clean, text.splitlines()) if line]


def normal(text: str) -> str:
    """What two lines are compared by: words and numbers, case and punctuation aside."""
    return " ".join(_WORD.findall(_folded(text))) or text


def map_key(text: str) -> str:
    """A key's one spelling: parts without outer or repeated white space, case folded, and no colon
    that could be taken for the one before the value."""
    parts = [" ".join(part.split()) for part in _folded(clean(text)).split(",")]
    return ",".join(parts).replace(": ", ":").rstrip(":")


def key_and_value(text: str) -> tuple[str, str]:
    """A map's line taken apart: what stands before its first ": " (else its first ":"), as a key, and
    what follows. Two empty texts where there is no colon."""
    for colon in (": ", ":"):
        key, found, value = text.partition(colon)
        if found:
            return map_key(key), value
    return "", ""


def item_line(item: str, label: str, ticked: bool) -> str:
    """A checklist's line."""
    return clean(f"[{'x' if ticked else ' '}] {item}" + (f": {label}" if label else ""))


def open_items(lines: Lines) -> Lines:
    """A checklist's lines that are not ticked."""
    return tuple((number, line) for number, line in lines if line.startswith("[ ]"))


def without_repeats(texts: Sequence[str], rule: str) -> list[str]:
    """Drops later copies within one write, by the file's dedupe rule."""
    if rule == "none":
        return list(texts)
    form = normal if rule == "normalized" else str
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(form(text), text)
    return list(first.values())


def shortened(line: str, chars: int) -> str:
    """A line of at most `chars` characters and a mark that says how much of it is missing."""
    if len(line) <= chars:
        return line
    return f"{line[:chars]} …[cut: {len(line) - chars} more characters]"


def stored_bytes(text: str) -> int:
    """What a line counts for: its UTF-8 and a newline."""
    return len(text.encode()) + 1


def count_of(lines: int) -> str:
    """ "1 line", "2 lines"."""
    return f"{lines} line" if lines == 1 else f"{lines} lines"


def quoted(text: str) -> str:
    """At most 40 characters of a text, in quotes."""
    text = clean(" ".join(text[:80].split()))
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"


def _folded(text: str) -> str:
    if text.isascii():
        return text.casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
