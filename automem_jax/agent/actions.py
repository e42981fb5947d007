"""Repairs: from what the model wrote to a legal action name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from automem_jax.agent.compass import OFFSETS, bearing, direction_of
from automem_jax.agent.template import ActionsSpec

REPAIRS = (
    "casefold",
    "strip_punctuation",
    "alias",
    "strip_prefix",
    "nearest_prefix",
    "two_step",
    "diagonal",
)
_MAX_CHARS = 200
_PREFIX = re.compile(r"^(?:i |will |go |going |move |walk |step |to |the |action:? )+")
_MIN_PREFIX = 2
_STEPS = re.compile(
    r"(?:\s*(?:[-=]?>|[,;.+&/|\n]|\b(?:and|then|followed by|before)\b|^first\b)\s*)+",
    re.IGNORECASE,
)
_FAR = re.compile(r"\b(?:far|run|running|rush|travel)\b")
_FILLER = re.compile(
    r"\b(?:i|will|go|going|move|walk|step|head|to|the|towards?|direction|diagonally|diagonal|far|"
    r"run|running|rush|travel|wards?|by|one|upper|lower)\b"
)
_HEADING = re.compile(r"(?:north|south|east|west)(?:ern|erly|wards?)?")
_SIDES = {"up": "north", "upper": "north", "down": "south", "lower": "south"} | {
    "right": "east",
    "left": "west",
}
_ABBREVIATION = re.compile(r"[ns]{1,2}[ew]|[ns][ew]{1,2}|[ew][ns][ew]")
_POINTS = {"n": "north", "s": "south", "e": "east", "w": "west"}


def repair(written: str, legal: Sequence[str], spec: ActionsSpec) -> str | None:
    """The legal action that `written` means; None if there is none.

    The repairs that the template names are tried one after the other, each on the result of those
    before it: casefold (case, `_` and `-` as spaces), strip_punctuation, alias, strip_prefix
    ("move to the", ...), nearest_prefix (the only legal name that starts with the text, or the
    longest legal name that the text starts with; what the next two take is left to them), two_step (of
    several steps, "north then east", the first that is legal), diagonal (of a heading in other
    words, "north-east" or "Move NE", the nearest legal compass direction: one of its two parts
    where moves are orthogonal only).
    """
    if written in legal:
        return written
    text = written.strip()[:_MAX_CHARS]
    return _repair(text, legal, spec, spec.repairs)


def fallback(legal: Sequence[str], spec: ActionsSpec) -> str:
    """What is done without a usable action: the template's, or the task's first."""
    return spec.fallback if spec.fallback in legal else legal[0]


def _repair(
    text: str, legal: Sequence[str], spec: ActionsSpec, repairs: Sequence[str]
) -> str | None:
    names = {_plain(name): name for name in reversed(legal)}
    for kind in repairs:
        if kind == "casefold":
            text = _plain(text)
        elif kind == "strip_punctuation":
            text = text.strip(" .,;:!?\"'`*()[]<>|")
        elif kind == "alias":
            aliases = {_plain(alias): name for alias, name in spec.aliases.items()}
            text = aliases.get(_plain(text), text)
        elif kind == "strip_prefix":
            text = _PREFIX.sub("", text)
        elif kind == "nearest_prefix" and len(text) >= _MIN_PREFIX:
            several = "two_step" in repairs and len(_steps(text)) > 1
            if several or ("diagonal" in repairs and len(_points(_plain(text))) > 1):
                continue  # "north east" starts with "north" and means another way
            text = _nearest_prefix(_plain(text), names) or text
        elif kind == "two_step":
            text = _first_step(text, legal, spec) or text
        elif kind == "diagonal":
            text = _nearest_heading(text, legal) or text
        if text in legal:
            return text
        if "casefold" in repairs and _plain(text) in names:
            return names[_plain(text)]
    return None


def _nearest_prefix(text: str, names: dict[str, str]) -> str | None:
    longer = [name for plain, name in names.items() if plain.startswith(text)]
    inside = [name for plain, name in names.items() if _starts(text, plain)]
    if len(longer) == 1:
        return longer[0]
    return max(inside, key=len) if inside else None


def _first_step(text: str, legal: Sequence[str], spec: ActionsSpec) -> str | None:
    parts = _steps(text)
    if parts == [text]:
        return None
    others = [kind for kind in spec.repairs if kind != "two_step"]
    for part in parts:
        found = part if part in legal else _repair(part, legal, spec, others)
        if found:
            return found
    return None


def _steps(text: str) -> list[str]:
    return [part for part in map(str.strip, _STEPS.split(text)) if part]


def _nearest_heading(text: str, legal: Sequence[str]) -> str | None:
    """The legal move nearest to a heading; None if the text is no heading."""
    points = _points(_plain(text))
    if not points:
        return None
    moves: dict[str, str] = {}
    far = bool(_FAR.search(_plain(text)))
    for name in legal:
        direction = direction_of(name)
        if direction and (direction not in moves or _plain(name).startswith("far ") == far):
            moves[direction] = name
    x = sum(OFFSETS[point][0] for point in points)
    y = sum(OFFSETS[point][1] for point in points)
    if (x, y) == (0, 0):
        return None
    for word in (bearing(x, y), *points):
        if word in moves:
            return moves[word]
    return None


def _points(text: str) -> list[str]:
    """The cardinal points that a heading is made of, in the order written; empty if it is none."""
    rest = _FILLER.sub(" ", text)
    points = _HEADING.findall(rest)
    if points:
        if _HEADING.sub("", rest).strip():
            return []
        return [next(word for word in _POINTS.values() if p.startswith(word)) for p in points]
    words = rest.split()
    sides = [_SIDES[word] for word in re.findall(r"\w+", text) if word in _SIDES]
    if len(sides) == 2 and all(word in _SIDES for word in words):
        return sides
    if len(words) == 1 and _ABBREVIATION.fullmatch(words[0]):
        return [_POINTS[letter] for letter in words[0]]
    return []


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())


def _starts(text: str, name: str) -> bool:
    return text.startswith(name) and not text[len(name) : len(name) + 1].isalnum()
