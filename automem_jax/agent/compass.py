"""Directions as words, and the direction that an action's name gives."""

from __future__ import annotations

from collections.abc import Mapping

# dx > 0 is east, dy > 0 is south; clockwise from north.
OFFSETS: dict[str, tuple[int, int]] = {
    "north": (0, -1),
    "northeast": (1, -1),
    "east": (1, 0),
    "southeast": (1, 1),
    "south": (0, 1),
    "southwest": (-1, 1),
    "west": (-1, 0),
    "northwest": (-1, -1),
}
STRAIGHT = ("north", "east", "south", "west")
WORDS = {offset: word for word, offset in OFFSETS.items()}
OPPOSITE = {word: WORDS[-dx, -dy] for word, (dx, dy) in OFFSETS.items()}


def direction_of(action: str | None, actions: Mapping[str, str] | None = None) -> str:
    """The direction an action moves in, "" for none.

    Args:
      action: an action's name.
      actions: direction by action name; None reads it off the name ("Move North", "far east").
    """
    if action is None:
        return ""
    if actions is not None:
        return actions.get(action, "")
    word = action.lower().removeprefix("move ").removeprefix("far ")
    return word if word in OFFSETS else ""


def bearing(dx: int, dy: int) -> str:
    """The nearest of the eight directions to an offset, "" for no offset."""
    if dx == 0 and dy == 0:
        return ""
    sx, sy = (dx > 0) - (dx < 0), (dy > 0) - (dy < 0)
    if abs(dx) * 12 < abs(dy) * 5:  # within 22.5 degrees of the axis, whose tangent is 0.41
        sx = 0
    elif abs(dy) * 12 < abs(dx) * 5:
        sy = 0
    return WORDS[sx, sy]


def place(dx: int, dy: int) -> str:
    """An offset in words: "5 east 2 south", "here"."""
    parts = []
    if dx:
        parts.append(f"{abs(dx)} {'east' if dx > 0 else 'west'}")
    if dy:
        parts.append(f"{abs(dy)} {'south' if dy > 0 else 'north'}")
    return " ".join(parts) or "here"
