"""Crafter in words: the 9 x 7 local view -> the text observation that BALROG shows its agents.

Coordinates: view[x][y], x 0..8 west to east, y 0..6 north to south, the player at [4][3]. Where
several cells hold the same thing, the nearest is told (steps east-west plus north-south); among
equally near ones the first from the west, then from the north. Things are told in the order in
which they first appear in that same scan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

CENTRE_X, CENTRE_Y = 4, 3
PLAYER = "player"
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
      view: names indexed [x][y]; None or "" outside the world, which is simply not told.
      facing: (dx, dy) of the cell in front of the player, dy > 0 is south.
      inventory: vitals and items by name, in the order to tell them.
      sleeping, dead: the player's state.
      precise_location: "2 steps north and 1 step east" instead of "3 steps to your north-east".
      unique_items: tell only the nearest of each thing; else every one, in scan order.
      skip_items: names that are not told.
      edge_only_items: names of which only cells that border on something else are told.
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
    told = [(name, *place) for name, place in nearest.items()] if unique_items else every
    place = _precise if precise_location else _rough
    seen = "\n".join(f"- {name} {place(steps, dx, dy)}" for name, steps, dx, dy in told)

    parts = []
    if sleeping:
        parts.append(
            "You are sleeping, and will not be able take actions until energy is full.\n\n"
        )
    elif dead:
        parts.append("You died.\n\n")
    front = _at(view, CENTRE_X + int(facing[0]), CENTRE_Y + int(facing[1]))
    sight = f"You see:\n{seen}" if seen else "You see nothing away from you."
    if front:
        sight += f"\n\nYou face {front} at your front."
    parts.append(sight)
    return "\n\n".join(parts), describe_status(inventory)


def describe_status(inventory: Mapping[str, int]) -> str:
    """BALROG's short-term context: vitals, then what is carried."""
    vitals = "\n".join(f"- {name}: {inventory[name]}/{VITAL_MAX}" for name in VITALS)
    items = "\n".join(
        f"- {name}: {count}"
        for name, count in inventory.items()
        if count > 0 and name not in VITALS
    )
    carried = f"Your inventory:\n{items}" if items else "You have nothing in your inventory."
    return f"Your status:\n{vitals}\n\n{carried}"


def _at(view: Sequence[Sequence[str | None]], x: int, y: int) -> str | None:
    if 0 <= x < len(view) and 0 <= y < len(view[x]):
        return view[x][y]
    return None


def _borders_on_other(view: Sequence[Sequence[str | None]], x: int, y: int) -> bool:
    around = (_at(view, x + dx, y + dy) for dx, dy in ((0, -1), (1, 0), (0, 1), (-1, 0)))
    return any(name and name != view[x][y] for name in around)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _rough(steps: int, dx: int, dy: int) -> str:
    north_south = "north" if dy < 0 else "south" if dy > 0 else ""
    east_west = "east" if dx > 0 else "west" if dx < 0 else ""
    return f"{_steps(steps)} to your {'-'.join(w for w in (north_south, east_west) if w)}"


def _precise(steps: int, dx: int, dy: int) -> str:
    del steps
    parts = []
    if dy:
        parts.append(f"{_steps(abs(dy))} {'north' if dy < 0 else 'south'}")
    if dx:
        parts.append(f"{_steps(abs(dx))} {'east' if dx > 0 else 'west'}")
    return " and ".join(parts)
