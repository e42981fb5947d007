"""Which steps are legal on known ground, and the shortest way over it.

The search runs on bit sets: one Python integer holds a cell a bit, so a wave of the search is a
few shifts however wide it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from automem_jax.agent.compass import OFFSETS, STRAIGHT
from automem_jax.agent.level_map import Level, LevelMap
from automem_jax.envs.grid import Terrain

FREE, BLOCKED, CREATURE, DOOR, DANGER, DARK = (
    "free",
    "blocked",
    "creature",
    "door",
    "danger",
    "dark",
)

WALKABLE = frozenset(
    (
        Terrain.HIDDEN,
        Terrain.FLOOR,
        Terrain.CORRIDOR,
        Terrain.DOORWAY,
        Terrain.DOOR_OPEN,
        Terrain.STAIRS_UP,
        Terrain.STAIRS_DOWN,
        Terrain.LADDER_UP,
        Terrain.LADDER_DOWN,
        Terrain.ALTAR,
        Terrain.GRAVE,
        Terrain.THRONE,
        Terrain.SINK,
        Terrain.FOUNTAIN,
        Terrain.ICE,
        Terrain.BRIDGE,
        Terrain.AIR,
        Terrain.CLOUD,
        Terrain.TRAP,
        Terrain.PORTAL,
        Terrain.GRASS,
        Terrain.SAND,
        Terrain.PATH,
    )
)
LIQUID = frozenset((Terrain.WATER, Terrain.LAVA))
DOORS = frozenset((Terrain.DOOR_OPEN, Terrain.DOOR_CLOSED))
ROCK = frozenset((Terrain.WALL, Terrain.SOLID, Terrain.TREE))


def table(kinds: Iterable[Terrain]) -> np.ndarray:
    """A look-up by terrain: bool [256], true for `kinds`."""
    found = np.zeros(256, bool)
    found[[int(kind) for kind in kinds]] = True
    return found


_WALKABLE, _ROCK, _DOORS = table(WALKABLE), table(ROCK), table(DOORS)


def step_kind(where: LevelMap, direction: str) -> str:
    """What a step from the player's cell means.

    Returns:
      FREE: the player gets there (pushing a boulder or swapping with a pet, if need be);
      BLOCKED: nothing happens; CREATURE: someone stands there; DOOR: the step opens it;
      DANGER: water or lava; DARK: nothing is known of the cell.
    """
    level, grid = where.level, where.grid
    if where.things.get((where.x, where.y), None) and _engulfed(where):
        return CREATURE
    dx, dy = OFFSETS[direction]
    x, y = where.x + dx, where.y + dy
    slant = bool(dx and dy)
    if slant and not grid.diagonals:
        return BLOCKED
    aim = level.at(x, y)
    if aim == Terrain.OUTSIDE or (not grid.relative and x < 1):
        return BLOCKED
    creature = where.creature_at(x, y)
    if creature is not None and creature.kind != "pet":
        return CREATURE
    if grid.relative:
        return _open_ground(where, aim)
    if aim == Terrain.DOOR_CLOSED:  # a diagonal step opens it too
        return BLOCKED if (x, y) in level.locked else DOOR
    if slant and (aim == Terrain.DOOR_OPEN or level.at(where.x, where.y) in DOORS):
        return BLOCKED
    if slant and _is_tight(where, x, y):
        return BLOCKED
    if _boulder_at(where, x, y):
        gives_way = direction not in level.failed_from(where.x, where.y) and _gives_way(
            where, x + dx, y + dy, slant
        )
        return FREE if gives_way else BLOCKED
    return _open_ground(where, aim)


def _open_ground(where: LevelMap, aim: Terrain) -> str:
    if aim in WALKABLE:
        return FREE
    if aim == Terrain.UNKNOWN:
        return DARK
    if aim == Terrain.LAVA or (aim == Terrain.WATER and not where.grid.relative):
        return FREE if where.afloat else DANGER
    return BLOCKED


def _engulfed(where: LevelMap) -> bool:
    return where.things[where.x, where.y].kind == "engulfer"


def _boulder_at(where: LevelMap, x: int, y: int) -> bool:
    thing = where.things.get((x, y))
    return thing is not None and thing.kind == "boulder"


def _is_rock(where: LevelMap, x: int, y: int) -> bool:
    return where.level.at(x, y) in ROCK or _boulder_at(where, x, y)


def _is_tight(where: LevelMap, x: int, y: int) -> bool:
    """The diagonal step to (x, y) leads between two rocks, and the player does not fit."""
    squeezes = where.squeeze and not where.level.strict
    return not squeezes and _is_rock(where, where.x, y) and _is_rock(where, x, where.y)


def _gives_way(where: LevelMap, x: int, y: int, slant: bool) -> bool:
    """A boulder can be pushed to (x, y)."""
    behind = where.level.at(x, y)
    if behind in ROCK or behind in (Terrain.BARS, Terrain.DOOR_CLOSED, Terrain.OUTSIDE):
        return False
    if behind == Terrain.BRIDGE_RAISED or x < 1:
        return False
    if slant and (behind == Terrain.DOOR_OPEN or where.level.strict):
        return False
    return not _boulder_at(where, x, y) and where.creature_at(x, y) is None


class Roads:
    """The known ground of the player's level as a graph: which steps are legal from each cell.

    Boulders stand in the way; creatures do not, they move. Closed doors can be walked into unless
    found locked.

    Args:
      where: the level and the player on it.
      avoid: terrain that is not walked on.
    """

    def __init__(self, where: LevelMap, avoid: Collection[Terrain] = ()) -> None:
        level, grid = where.level, where.grid
        self._level = level
        self._stride = level.terrain.shape[1] + 1  # an empty column keeps rows apart
        self.enter = self.bits(self._walkable(where, level, avoid))
        slanted = grid.diagonals
        self._shift = {
            word: dx + dy * self._stride
            for word, (dx, dy) in OFFSETS.items()
            if slanted or word in STRAIGHT
        }
        self._barred = dict.fromkeys(self._shift, 0)  # cells that a step may not start from
        self._doors = self.bits(_DOORS[level.terrain]) if slanted else 0
        if slanted and (not where.squeeze or level.strict):
            self._bar_tight_steps(where, level)
        if grid.relative:
            return  # there a move fails for reasons that the view shows
        for (x, y, word), ground in level.failed.items():
            dx, dy = OFFSETS[word]
            if level.at(x + dx, y + dy) == ground:
                self._barred[word] |= self.bit(x, y)

    def _walkable(self, where: LevelMap, level: Level, avoid: Collection[Terrain]) -> np.ndarray:
        allowed = _WALKABLE.copy()
        if not where.grid.relative:
            allowed[Terrain.DOOR_CLOSED] = True
            allowed[[int(t) for t in LIQUID]] = where.afloat
        if avoid:
            allowed[[int(t) for t in avoid]] = False
        walkable = allowed[level.terrain]
        stuck = [(t.x, t.y) for t in where.things.values() if t.kind == "boulder"]
        if where.grid.relative:
            stuck = []
        else:
            walkable[:, 0] = False
        for x, y in (*stuck, *level.locked):
            walkable[y - level.top, x - level.left] = False
        return walkable

    def _bar_tight_steps(self, where: LevelMap, level: Level) -> None:
        rock = _ROCK[level.terrain]
        for thing in where.things.values():
            if thing.kind == "boulder":
                rock[thing.y - level.top, thing.x - level.left] = True
        rocks = self.bits(rock)
        for word, (dx, dy) in OFFSETS.items():
            if dx and dy:
                beside = _moved(rocks, -dx) & _moved(rocks, -dy * self._stride)
                self._barred[word] |= beside

    def bits(self, mask: np.ndarray) -> int:
        """A bool [H, W] mask as a bit set."""
        padded = np.zeros((mask.shape[0], self._stride), bool)
        padded[:, :-1] = mask
        return int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")

    def bit(self, x: int, y: int) -> int:
        """The bit of one cell."""
        return 1 << ((y - self._level.top) * self._stride + x - self._level.left)

    def cell(self, bit: int) -> tuple[int, int]:
        """The coordinates of a one-bit set."""
        row, column = divmod(bit.bit_length() - 1, self._stride)
        return column + self._level.left, row + self._level.top

    def beside(self, bits: int) -> int:
        """Cells next to any of `bits`, diagonally too where the player moves diagonally."""
        found = 0
        for shift in self._shift.values():
            found |= _moved(bits, shift)
        return found

    def way(self, x: int, y: int, goals: int) -> tuple[tuple[str, ...], tuple[int, int]] | None:
        """The shortest way from a cell to the nearest of `goals`, a bit set.

        A goal that cannot be walked on (a tree, water) is reached by facing it: the last step leads
        into it. Returns directions and the goal's cell; None where no way is known.
        """
        start = self.bit(x, y)
        if start & goals:
            return (), (x, y)
        layers, seen, frontier = [start], start, start
        while frontier:
            reached = self._next(frontier)
            hit = reached & goals & ~seen
            if hit:
                goal = hit & -hit
                return self._back(layers, goal), self.cell(goal)
            frontier = reached & self.enter & ~seen
            seen |= frontier
            layers.append(frontier)
        return None

    def _next(self, cells: int) -> int:
        reached = 0
        free = cells & ~self._doors
        for word, shift in self._shift.items():
            if word in STRAIGHT:
                reached |= _moved(cells & ~self._barred[word], shift)
            else:
                reached |= _moved(free & ~self._barred[word], shift) & ~self._doors
        return reached

    def _back(self, layers: list[int], cell: int) -> tuple[str, ...]:
        path: list[str] = []
        for layer in reversed(layers):
            words = [path[-1], *self._shift] if path else self._shift
            for word in words:
                shift = self._shift[word]
                source = _moved(cell, -shift) & layer & ~self._barred[word]
                slant = word not in STRAIGHT
                if source and not (slant and (source | cell) & self._doors):
                    path.append(word)
                    cell = source
                    break
        return tuple(reversed(path))


def _moved(bits: int, shift: int) -> int:
    return bits << shift if shift > 0 else bits >> -shift
