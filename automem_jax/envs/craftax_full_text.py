"""Craftax (the full game) in words, in the manner of Crafter's text: a scene, then a status.

BALROG has no text for this game; names are those of the game's own enums, in lower case. The scene
tells the nearest of each thing in the 11 x 9 view (`crafter_text` has the rules of nearness and
order), what stands in front of the player and what is under it. Cells without light are darkness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from automem_jax.envs import crafter_text

VIEW_X, VIEW_Y = 11, 9
CENTRE_X, CENTRE_Y = VIEW_X // 2, VIEW_Y // 2
DAY, NIGHT = 0.7, 0.3  # daylight above the one is told as day, below the other as night
_RESTING = "You are resting, and will not be able to take actions until health is full.\n\n\n\n"


def describe_scene(
    lines: Iterable[str],
    *,
    front: str,
    under: str,
    place: str,
    direction: str,
    sleeping: bool,
    resting: bool,
    dead: bool,
) -> str:
    """What the player sees, the percept's long text.

    Args:
      lines: `crafter_text.sighting` of each thing in view.
      front, under: names of what is in front of the player and under it.
      place: from `describe_place`.
      direction: north, east, south or west.
    """
    seen = "\n".join(lines)
    scene = f"You see:\n{seen}" if seen else "You see nothing away from you."
    state = crafter_text.state_of(sleeping, dead) or (_RESTING if resting else "")
    return (
        f"{state}You are {place}, facing {direction}.\n\n{scene}\n\n"
        f"You face {front} at your front.\nYou stand on {under}."
    )


def describe_place(floor: int, last_floor: int, name: str, daylight: float) -> str:
    """As in "on floor 0 of 8 (overworld, by day)"; there is day and night on floor 0 alone."""
    if floor:
        return f"on floor {floor} of {last_floor} ({name})"
    time = "by day" if daylight > DAY else "by night" if daylight < NIGHT else "in half light"
    return f"on floor 0 of {last_floor} ({name}, {time})"


def describe_status(
    vitals: Mapping[str, float],
    limits: Mapping[str, int],
    attributes: Mapping[str, int],
    attribute_limit: int,
    experience: int,
    spells: Sequence[str],
    inventory: Mapping[str, int],
    enchantments: Mapping[str, str],
) -> str:
    """How the player fares, the percept's short text.

    Args:
      vitals, limits: points by name and the most there can be of each.
      attributes, attribute_limit: levels by name and the highest level.
      experience: unspent points; one raises an attribute by a level.
      spells: names of those learned.
      inventory: items by name; those of which there are none are not told.
      enchantments: the element by the name of the item that bears it.
    """
    lines = [f"- {name}: {_points(points)}/{limits[name]}" for name, points in vitals.items()]
    lines += [f"- {name}: {level}/{attribute_limit}" for name, level in attributes.items()]
    lines.append(f"- experience: {experience}")
    items = "\n".join(
        f"- {name}{f' ({enchantments[name]})' if name in enchantments else ''}: {count}"
        for name, count in inventory.items()
        if count
    )
    carried = f"Your inventory:\n{items}" if items else "You have nothing in your inventory."
    known = f"Your spells: {', '.join(spells)}" if spells else "You know no spells."
    status = "\n".join(lines)
    return f"Your status:\n{status}\n\n{known}\n\n{carried}"


def _points(points: float) -> str:
    return f"{points:.1f}".removesuffix(".0")
