"""Crafter in words: the 9 x 7 local view -> the text observation that BALROG shows its agents.

Coordinates: view[x][y], x 0..8 west to east, y 0..6 north to south, the player at [4][3]. Where
several cells hold the same thing, the nearest is told (steps east-west plus north-south); among
equally near ones the first from the west, then from the north. Things are told in the order in
which they first appear in that same scan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

VIEW_X, VIEW_Y = 9, 7
CENTRE_X, CENTRE_Y = VIEW_X // 2, VIEW_Y // 2
PLAYER = "player"
NOTHING = "nothing"
VITALS = ("health", "food", "drink", "energy")
VITAL_MAX = 9


def describe(
    view: Sequence[Sequence[str | None]],
    facing: Sequence[int],
    inventory: Mapping[str, int],
    sleeping: bool,
    dead: bool,
    *,
    precise_location: bool = False,
    unique_items: bool = True,
    skip_items: Collection[str] = (),
    edge_only_items: Collection[str] = (),
) -> tuple[str, str]:
    """BALROG's (long-term, short-term) context of one Crafter frame.

    Args:
      view: names indexed [x][y]; None or "" outside the world, which is simply not told (a view
        cut off at the world's east or south edge may also be shorter).
      facing: (dx, dy) of the cell in front of the player, dy > 0 is south.
      inventory: vitals and items by name, in the order to tell them.
      sleeping, dead: the player's state; a dead sleeper is told to sleep.
      precise_location: "2 steps north and 1 step east" instead of "3 steps to your north-east".
      unique_items: tell only the nearest of each thing; else every one, in scan order.
      skip_items: names that are not told; one in front of the player is told as "nothing".
      edge_only_items: names of which only cells that border on something else are told (the cells
        beyond the view do not count).
    """
    nearest: dict[str, tuple[int, int, int]] = {}
    every: list[tuple[str, int, int, int]] = []
    for x, column in enumerate(view):
        for y, name in enumerate(column):
            if not name or name == PLAYER or name in skip_items:
                continue
            if name in edge_only_items and not _borders_on_other(view, x, y):
                continue
            dx, dy = x - CENTRE_X, y - CENTRE_Y
            steps = abs(dx) + abs(dy)
            if name not in nearest or steps < nearest[name][0]:
                nearest[name] = (steps, dx, dy)
            every.append((name, steps, dx, dy))
    told = [(name, *where) for name, where in nearest.items()] if unique_items else every
    place = precise_place if precise_location else rough_place
    front = _at(view, CENTRE_X + int(facing[0]), CENTRE_Y + int(facing[1]))
    if not front or front in skip_items:
        front = NOTHING
    lines = (sighting(name, place(dx, dy)) for name, _, dx, dy in told)
    return describe_scene(lines, front, sleeping, dead), describe_status(inventory)


def describe_scene(lines: Iterable[str], front: str, sleeping: bool, dead: bool) -> str:
    """BALROG's long-term context from its parts: lines of `sighting`, the name in front."""
    seen = "\n".join(lines)
    scene = f"You see:\n{seen}" if seen else "You see nothing away from you."
    return f"{state_of(sleeping, dead)}{scene}\n\nYou face {front} at your front."


def describe_status(inventory: Mapping[str, int]) -> str:
    """BALROG's short-term context: vitals, then what is carried."""
    vitals = "\n".join(f"- {name}: {inventory[name]}/{VITAL_MAX}" for name in VITALS)
    items = "\n".join(
        f"- {name}: {count}"
        for name, count in inventory.items()
        if count != 0 and name not in VITALS
    )
    carried = f"Your inventory:\n{items}" if items else "You have nothing in your inventory."
    return f"Your status:\n{vitals}\n\n{carried}"


def state_of(sleeping: bool, dead: bool) -> str:
    """What precedes the scene; empty for a player awake and alive."""
    if sleeping:
        return "You are sleeping, and will not be able take actions until energy is full.\n\n\n\n"
    return "You died.\n\n\n\n" if dead else ""


def sighting(name: str, place: str) -> str:
    """One line of the list of things seen."""
    return f"- {name} {place}"


def rough_place(dx: int, dy: int) -> str:
    """As in "3 steps to your north-east"."""
    north_south = "north" if dy < 0 else "south" if dy > 0 else ""
    east_west = "east" if dx > 0 else "west" if dx < 0 else ""
    direction = "-".join(word for word in (north_south, east_west) if word)
    return f"{_steps(abs(dx) + abs(dy))} to your {direction}"


def precise_place(dx: int, dy: int) -> str:
    """As in "2 steps north and 1 step east"."""
    parts = []
    if dy:
        parts.append(f"{_steps(abs(dy))} {'north' if dy < 0 else 'south'}")
    if dx:
        parts.append(f"{_steps(abs(dx))} {'east' if dx > 0 else 'west'}")
    return " and ".join(parts) or "at your location"


def _at(view: Sequence[Sequence[str | None]], x: int, y: int) -> str | None:
    if 0 <= x < len(view) and 0 <= y < len(view[x]):
        return view[x][y]
    return None


def _borders_on_other(view: Sequence[Sequence[str | None]], x: int, y: int) -> bool:
    around = (_at(view, x + dx, y + dy) for dx, dy in ((0, -1), (1, 0), (0, 1), (-1, 0)))
    return any(name and name != view[x][y] for name in around)


def _steps(count: int) -> str:
    return f"{count} step{'s' if count > 1 else ''}"
