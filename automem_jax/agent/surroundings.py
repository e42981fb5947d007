"""What surrounds the player: neighbours, legal steps, dangers, what is known nearby, a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from automem_jax.agent.compass import OFFSETS, place
from automem_jax.agent.level_map import LevelMap, MapObserver
from automem_jax.agent.paths import Outputs
from automem_jax.agent.routes import BLOCKED, DOOR, FREE, step_kind, table
from automem_jax.envs.grid import Terrain

HAZARDS = (Terrain.LAVA, Terrain.WATER, Terrain.TRAP)
_TARGETS = (
    Terrain.STAIRS_DOWN,
    Terrain.STAIRS_UP,
    Terrain.LADDER_DOWN,
    Terrain.LADDER_UP,
    Terrain.PORTAL,
    Terrain.ALTAR,
    Terrain.FOUNTAIN,
    Terrain.SINK,
    Terrain.THRONE,
    Terrain.GRAVE,
    Terrain.DOOR_CLOSED,
    Terrain.TABLE,
    Terrain.FURNACE,
    Terrain.PLANT,
    Terrain.DIAMOND,
    Terrain.IRON,
    Terrain.COAL,
    Terrain.TREE,
    Terrain.WATER,
    Terrain.STONE,
)
_IS_TARGET = table(_TARGETS)
# How the drawing shows terrain; its last line explains what it used.
_SYMBOLS = {
    Terrain.UNKNOWN: " ",
    Terrain.HIDDEN: ".",
    Terrain.FLOOR: ".",
    Terrain.CORRIDOR: ",",
    Terrain.DOORWAY: "'",
    Terrain.DOOR_OPEN: "/",
    Terrain.DOOR_CLOSED: "+",
    Terrain.WALL: "#",
    Terrain.SOLID: " ",
    Terrain.BARS: "=",
    Terrain.TREE: "T",
    Terrain.STAIRS_UP: "<",
    Terrain.STAIRS_DOWN: ">",
    Terrain.LADDER_UP: "<",
    Terrain.LADDER_DOWN: ">",
    Terrain.ALTAR: "_",
    Terrain.GRAVE: "|",
    Terrain.THRONE: "\\",
    Terrain.SINK: "u",
    Terrain.FOUNTAIN: "{",
    Terrain.WATER: "~",
    Terrain.ICE: "i",
    Terrain.LAVA: "!",
    Terrain.TRAP: "^",
    Terrain.PORTAL: "^",
    Terrain.GRASS: ".",
    Terrain.SAND: ":",
    Terrain.PATH: ",",
    Terrain.STONE: "#",
    Terrain.COAL: "c",
    Terrain.IRON: "i",
    Terrain.DIAMOND: "d",
    Terrain.TABLE: "t",
    Terrain.FURNACE: "f",
    Terrain.PLANT: "p",
    Terrain.OUTSIDE: " ",
}
_THING_SYMBOLS = {"pet": "P", "boulder": "0", "object": "*", "statue": "*", "trap": "^"}
_SYMBOL_OF = [_SYMBOLS.get(kind, "?") for kind in Terrain]  # by number
_PLAIN = (Terrain.UNKNOWN, Terrain.HIDDEN, Terrain.SOLID, Terrain.OUTSIDE)


class GlyphMap(MapObserver):
    """What surrounds the player.

    Params: radius (of the drawing). Outputs: adjacent (direction -> word, all eight); passable
    (directions in which a step gets somewhere: no diagonals through doors, boulders only where they
    can be pushed, pets swap); blocked (directions in which nothing at all would happen); doors
    (directions of closed doors that a step opens); hazards (directions of lava, water and traps);
    targets (the nearest of each notable thing known on this level: "stairs down 5 east 2 south");
    underfoot (what the player stands on, "unknown" where it was never seen); crop (a drawing of the
    surroundings with its legend); known (cells seen on this level); text.
    """

    OUTPUTS = (
        "adjacent",
        "passable",
        "blocked",
        "doors",
        "hazards",
        "targets",
        "underfoot",
        "crop",
        "known",
        "text",
    )
    PARAMS = ("radius",)

    def __init__(self, radius: int = 4, *, where: LevelMap | None = None) -> None:
        super().__init__(where)
        self._radius = int(radius)

    def outputs(self) -> Mapping[str, Any]:
        where = self._where
        if where.grid is None:
            empty = dict.fromkeys(self.OUTPUTS, ())
            return empty | {"adjacent": {}, "underfoot": "", "crop": "", "known": 0, "text": ""}

        def steps(wanted: str) -> tuple[str, ...]:
            return tuple(word for word in OFFSETS if step_kind(where, word) == wanted)

        told = Outputs(
            {},
            {
                "adjacent": self._adjacent,
                "passable": lambda: steps(FREE),
                "blocked": lambda: steps(BLOCKED),
                "doors": lambda: steps(DOOR),
                "hazards": lambda: tuple(w for w, at in OFFSETS.items() if _is_hazard(where, *at)),
                "targets": lambda: nearest_targets(where),
                "underfoot": self._underfoot,
                "crop": self._drawing,
                "known": lambda: int(np.count_nonzero(where.level.terrain > Terrain.HIDDEN)),
                "text": lambda: _surroundings(told),
            },
        )
        return told

    def _adjacent(self) -> dict[str, str]:
        where = self._where
        return {w: _word_at(where, where.x + dx, where.y + dy) for w, (dx, dy) in OFFSETS.items()}

    def _underfoot(self) -> str:
        where = self._where
        ground = where.level.at(where.x, where.y)
        return "unknown" if ground <= Terrain.HIDDEN else ground.word

    def _drawing(self) -> str:
        """The surroundings, a character a cell, and a line that explains the characters used."""
        where, reach = self._where, self._radius
        level, size = where.level, 2 * self._radius + 1
        left, top = where.x - reach, where.y - reach
        ground = np.full((size, size), Terrain.OUTSIDE, np.uint8)
        r, c = top - level.top, left - level.left
        inner = level.terrain[max(r, 0) : max(r + size, 0), max(c, 0) : max(c + size, 0)]
        r, c = max(-r, 0), max(-c, 0)
        ground[r : r + inner.shape[0], c : c + inner.shape[1]] = inner
        drawn = [[_SYMBOL_OF[kind] for kind in row] for row in ground.tolist()]
        used: dict[str, list[str]] = {"@": ["you"]}
        for kind in np.unique(ground).tolist():
            if Terrain(kind) not in _PLAIN:
                used.setdefault(_SYMBOL_OF[kind], []).append(Terrain(kind).word)
        for (x, y), thing in where.things.items():
            if abs(x - where.x) <= reach and abs(y - where.y) <= reach:
                symbol = _THING_SYMBOLS.get(thing.kind, "M")
                drawn[y - top][x - left] = symbol
                names = used.setdefault(symbol, [])
                if thing.name not in names:
                    names.append(thing.name)
        drawn[reach][reach] = "@"
        legend = ", ".join(f"{symbol} {' or '.join(names)}" for symbol, names in used.items())
        return "\n".join([*("".join(row).rstrip() for row in drawn), legend])


def _word_at(where: LevelMap, x: int, y: int) -> str:
    """What is told of a cell: what stands or lies there, else its ground."""
    thing = where.things.get((x, y))
    if thing is not None:
        return f"tame {thing.name}" if thing.kind == "pet" else thing.name
    ground = where.level.at(x, y)
    if ground == Terrain.DOOR_CLOSED and (x, y) in where.level.locked:
        return "locked door"
    if ground == Terrain.HIDDEN:
        return "ground"
    return "rock" if ground == Terrain.SOLID else ground.word


def _is_hazard(where: LevelMap, dx: int, dy: int) -> bool:
    x, y = where.x + dx, where.y + dy
    thing = where.things.get((x, y))
    if thing is not None and thing.kind == "cloud":
        return True
    ground = where.level.at(x, y)
    if ground in HAZARDS and where.afloat:
        return False
    # Water is a shore in Crafter: nobody falls in.
    return ground in HAZARDS and not (where.grid.relative and ground == Terrain.WATER)


def nearest_targets(where: LevelMap) -> tuple[str, ...]:
    """The nearest cell of each notable terrain known on this level, in words, nearest first."""
    level = where.level
    rows, columns = np.nonzero(_IS_TARGET[level.terrain])
    if not len(rows):
        return ()
    dx, dy = columns + level.left - where.x, rows + level.top - where.y
    ax, ay = np.abs(dx), np.abs(dy)
    reach = np.maximum(ax, ay) if where.grid.diagonals else ax + ay
    kinds = level.terrain[rows, columns]
    order = np.lexsort((ax + ay, reach))
    places = np.full(len(_IS_TARGET), -1)  # by kind: the first in this order
    places[kinds[order[::-1]]] = np.arange(len(order))[::-1]
    first = np.sort(places[places >= 0])
    return tuple(
        f"{Terrain(int(kinds[i])).word} {place(int(dx[i]), int(dy[i]))}"
        for i in order[first].tolist()
    )


def _surroundings(told: Mapping[str, Any]) -> str:
    adjacent, passable, hazards = told["adjacent"], told["passable"], told["hazards"]
    lines = ["around you: " + ", ".join(f"{w} {what}" for w, what in adjacent.items())]
    lines.append(f"open: {', '.join(passable) or 'nowhere'}")
    if hazards:
        lines.append("danger: " + ", ".join(f"{w} {adjacent[w]}" for w in hazards))
    lines.append(f"underfoot: {told['underfoot']}")
    if told["targets"]:
        lines.append("known: " + ", ".join(told["targets"]))
    return "\n".join(lines)
