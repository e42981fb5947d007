"""What has been seen of each level, and where the player is on it.

Absolute grids (NetHack) give the position; for relative ones (Crafter's view) it is reckoned from
the action and the two views, from 0,0 where the episode began. Terrain stays known once seen:
what stands under the player, under things and out of the light is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from automem_jax.agent.compass import OFFSETS, direction_of
from automem_jax.envs.base import Percept
from automem_jax.envs.grid import Grid, Terrain, Thing

_TERRAIN = tuple(Terrain)  # by number
CREATURES = ("monster", "unseen", "engulfer")
_GROWTH = 16  # cells added at an edge that a relative view reaches
_UNDERFOOT = re.compile(r"There (?:is|are) (?:an? |the )?(.+?) here\b")
_UNDERFOOT_WORDS = (
    ("staircase up", Terrain.STAIRS_UP),
    ("staircase down", Terrain.STAIRS_DOWN),
    ("ladder up", Terrain.LADDER_UP),
    ("ladder down", Terrain.LADDER_DOWN),
    ("fountain", Terrain.FOUNTAIN),
    ("altar", Terrain.ALTAR),
    ("throne", Terrain.THRONE),
    ("sink", Terrain.SINK),
    ("grave", Terrain.GRAVE),
    ("broken door", Terrain.DOORWAY),
    ("doorway", Terrain.DOORWAY),
    ("open door", Terrain.DOOR_OPEN),
    ("drawbridge", Terrain.BRIDGE),
    ("magic portal", Terrain.PORTAL),
    ("trap", Terrain.TRAP),
    ("pit", Terrain.TRAP),
    ("hole", Terrain.TRAP),
    ("web", Terrain.TRAP),
    ("land mine", Terrain.TRAP),
    ("level teleporter", Terrain.TRAP),
    ("squeaky board", Terrain.TRAP),
)
_LOCKED = re.compile(r"\bdoor is locked|is locked\b", re.IGNORECASE)
_TOO_TIGHT = re.compile(r"carrying too much to get through|too large to fit|cannot pass that way")
_STRICT = re.compile(r"won't roll diagonally|cannot pass that way")
_NOT_THE_WAY = re.compile(  # a move that failed for another reason than the ground
    r"You stop|in the way|swap|trap|\bpit\b|\bweb\b|stuck|\bheld\b|cannot escape|Really attack|You (?:move "
    r"right into|attack|hit|miss|kill|destroy|bite|kick)|door opens|too (?:hungry|weak)|"
    r"You (?:don't|cannot) (?:have enough|move)"
)
_FELL = re.compile(r"trap ?door|\bhole\b|fall through|plunge|whirl|warp|teleport", re.IGNORECASE)
_CRAFTER_GROUND = frozenset((Terrain.GRASS, Terrain.SAND, Terrain.PATH, Terrain.LAVA))


@dataclass
class Level:
    """What is known of one level.

    Attributes:
      terrain: uint8 [H, W] of Terrain.   visits: int32 [H, W], arrivals at each cell.
      left, top: the coordinates of terrain[0, 0].
      failed: moves made in vain, (x, y, direction) -> terrain of the cell aimed at back then.
      locked: doors found locked.
      strict: Sokoban's rules: no squeezing between rocks, no boulder rolls diagonally.
    """

    terrain: np.ndarray
    visits: np.ndarray
    left: int = 0
    top: int = 0
    failed: dict[tuple[int, int, str], int] = field(default_factory=dict)
    locked: set[tuple[int, int]] = field(default_factory=set)
    strict: bool = False

    def at(self, x: int, y: int) -> Terrain:
        """The remembered terrain; OUTSIDE beyond the map."""
        row, column = y - self.top, x - self.left
        if 0 <= row < self.terrain.shape[0] and 0 <= column < self.terrain.shape[1]:
            return _TERRAIN[self.terrain[row, column]]
        return Terrain.OUTSIDE

    def put(self, x: int, y: int, terrain: Terrain) -> None:
        """Notes the terrain of a cell on the map."""
        self.terrain[y - self.top, x - self.left] = terrain

    def visits_at(self, x: int, y: int) -> int:
        """How often the player arrived at a cell."""
        row, column = y - self.top, x - self.left
        if 0 <= row < self.visits.shape[0] and 0 <= column < self.visits.shape[1]:
            return int(self.visits[row, column])
        return 0

    def failed_from(self, x: int, y: int) -> tuple[str, ...]:
        """Directions that failed from a cell and whose target still looks as it did then."""
        return tuple(
            word
            for word, (dx, dy) in OFFSETS.items()
            if self.failed.get((x, y, word)) == self.at(x + dx, y + dy)
        )

    def make_room(self, left: int, top: int, width: int, height: int) -> None:
        """Grows the map so that it holds a rectangle of cells."""
        rows, columns = self.terrain.shape
        west = max(0, self.left - left)
        north = max(0, self.top - top)
        east = max(0, left + width - self.left - columns)
        south = max(0, top + height - self.top - rows)
        if not (west or north or east or south):
            return
        pad = [[n and n + _GROWTH for n in sides] for sides in ((north, south), (west, east))]
        self.terrain = np.pad(self.terrain, pad, constant_values=Terrain.UNKNOWN)
        self.visits = np.pad(self.visits, pad)
        self.left -= pad[1][0]
        self.top -= pad[0][0]


@dataclass(frozen=True)
class Before:
    """The map as it was before the last percept.

    Attributes:
      name, x, y: the player's level and cell.   things: what was in sight, by cell.
      terrain: a copy of the level's, None before the first percept.   left, top: its corner.
    """

    name: str = ""
    x: int = 0
    y: int = 0
    things: Mapping[tuple[int, int], Thing] = field(default_factory=dict)
    terrain: np.ndarray | None = None
    left: int = 0
    top: int = 0

    @property
    def place(self) -> tuple[str, int, int]:
        """Level and cell."""
        return self.name, self.x, self.y


class LevelMap:
    """Follows the player through the levels of an episode.

    Attributes:
      grid: the last percept's, None where the environment gives none; nothing else holds then.
      level, name: the level the player is on.   x, y: the player's cell on it.
      moved: the last action changed the position (or the level).   still: percepts in a row
        without a move.   direction: where the last action was to lead, "" for no move.
      things: what is seen on this level now, by cell, in the level's coordinates; the topmost.
      squeeze: the player fits diagonally between rocks.   afloat: flies or levitates.
      sees: the player is not blind.
      before: what all this was before the last percept.
    """

    def __init__(self, actions: Mapping[str, str] | None = None) -> None:
        self._actions = actions
        self.grid: Grid | None = None
        self.levels: dict[str, Level] = {}
        self.name = ""
        self.x = self.y = 0
        self.moved = False
        self.still = 0
        self.direction = ""
        self.things: dict[tuple[int, int], Thing] = {}
        self.squeeze = True
        self.afloat = False
        self.sees = True
        self.before = Before()
        self._asleep = False
        self._asked = ""
        self._items: Any = None

    @property
    def level(self) -> Level:
        """The level the player is on."""
        return self.levels[self.name]

    def update(self, percept: Percept) -> None:
        """Takes the next percept; one without a grid changes nothing."""
        fields = percept.fields
        grid = fields.get("grid")
        if grid is None:
            return
        before, self.grid = self.grid, grid
        self.before = self._now()
        old, old_things = self.before.place, self.before.things
        message = fields.get("message", "") or ""
        conditions = fields.get("conditions", ())
        self.direction = "" if self._asked else direction_of(percept.action, self._actions)
        self.afloat = "Flying" in conditions or "Levitating" in conditions
        self.sees = "Blind" not in conditions
        if fields.get("items") != self._items:
            self._items, self.squeeze = fields.get("items"), True
        if _TOO_TIGHT.search(message):
            self.squeeze = False
        self._place(grid, before)
        new = self.name not in self.levels
        self._remember(grid)
        here = (self.name, self.x, self.y)
        self.moved = before is not None and here != old
        if before is None or self.moved:
            level = self.level
            level.visits[self.y - level.top, self.x - level.left] += 1
        self.still = 0 if before is None or self.moved else self.still + 1
        self._look_down(percept, message, old if before is not None else here, new)
        if _STRICT.search(message):
            self.level.strict = True
        if before is not None and self.direction:
            self._learn_from_move(old, old_things, message)
        self._asleep = bool(fields.get("sleeping"))
        self._asked = fields.get("prompt", "") or ""

    def creature_at(self, x: int, y: int) -> Thing | None:
        """The creature on a cell, pets too."""
        thing = self.things.get((x, y))
        return thing if thing is not None and thing.kind in (*CREATURES, "pet") else None

    def _now(self) -> Before:
        level = self.levels.get(self.name)
        if level is None:
            return Before(self.name, self.x, self.y, self.things)
        terrain = level.terrain.copy()
        return Before(self.name, self.x, self.y, self.things, terrain, level.left, level.top)

    def _place(self, grid: Grid, before: Grid | None) -> None:
        """Sets level and position."""
        if not grid.relative:
            self.name, self.x, self.y = grid.level, grid.x, grid.y
            return
        if before is not None and grid.level == self.name and self.direction and not self._asleep:
            dx, dy = OFFSETS[self.direction]
            if _stepped(before, grid, dx, dy):
                self.x, self.y = self.x + dx, self.y + dy
        self.name = grid.level

    def _remember(self, grid: Grid) -> None:
        """Adds the frame to what is known."""
        height, width = grid.terrain.shape
        left, top = (self.x - grid.x, self.y - grid.y) if grid.relative else (0, 0)
        if self.name not in self.levels:
            unknown = np.zeros((height, width), np.uint8)
            self.levels[self.name] = Level(
                unknown,
                np.zeros((height, width), np.int32),
                left,
                top,
                strict=self.name.startswith("sokoban"),
            )
        level = self.level
        level.make_room(left, top, width, height)
        if grid.relative:
            self.things = {(t.x + left, t.y + top): t for t in grid.things}
        else:
            self.things = {(t.x, t.y): t for t in grid.things}
        if any(thing.kind == "engulfer" for thing in grid.things):
            return  # the inside of a creature is no part of the level
        rows = slice(top - level.top, top - level.top + height)
        columns = slice(left - level.left, left - level.left + width)
        known, seen = level.terrain[rows, columns], grid.terrain
        # Something that stands on what looked like rock stands on ground after all.
        floor = np.where(known == Terrain.SOLID, Terrain.UNKNOWN, known)
        hidden = np.where(seen == Terrain.HIDDEN, np.maximum(floor, seen), known)
        level.terrain[rows, columns] = np.where(seen > Terrain.HIDDEN, seen, hidden)
        if not grid.relative and self.sees:
            # Whoever can see, sees the cells next to them: what still shows nothing is rock.
            r, c = self.y, self.x
            around = level.terrain[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2]
            around[around == Terrain.UNKNOWN] = Terrain.SOLID

    def _look_down(
        self, percept: Percept, message: str, old: tuple[str, int, int], new: bool
    ) -> None:
        """What the message, or the way here, tells of the ground under the player."""
        for told in _UNDERFOOT.findall(message):
            for words, terrain in _UNDERFOOT_WORDS:
                if words in told:
                    self.level.put(self.x, self.y, terrain)
                    break
        if old[0] == self.name or percept.action not in ("up", "down", "<", ">"):
            return
        if _FELL.search(message):
            return
        down = percept.action in ("down", ">")
        left_by = self.levels[old[0]].at(old[1], old[2])
        ladder = left_by in (Terrain.LADDER_UP, Terrain.LADDER_DOWN)
        if left_by <= Terrain.HIDDEN:
            went = Terrain.STAIRS_DOWN if down else Terrain.STAIRS_UP
            self.levels[old[0]].put(old[1], old[2], went)
        if self.level.at(self.x, self.y) <= Terrain.HIDDEN:
            back = ("LADDER_" if ladder else "STAIRS_") + ("UP" if down else "DOWN")
            self.level.put(self.x, self.y, Terrain[back])

    def _learn_from_move(
        self, old: tuple[str, int, int], old_things: Mapping[tuple[int, int], Thing], message: str
    ) -> None:
        """Notes a move that led nowhere, or forgets that it once did."""
        name, x, y = old
        dx, dy = OFFSETS[self.direction]
        aim = (x + dx, y + dy)
        level = self.levels[name]
        if self.moved:
            level.failed.pop((x, y, self.direction), None)
            level.locked.discard((self.x, self.y))
            return
        if _LOCKED.search(message) and level.at(*aim) == Terrain.DOOR_CLOSED:
            level.locked.add(aim)
        busy = old_things.get(aim) or self.things.get(aim)
        occupied = busy is not None and busy.kind in (*CREATURES, "pet", "projectile")
        door = level.at(*aim) == Terrain.DOOR_CLOSED  # running never opens one, walking does
        if not (occupied or door or self._asleep or _NOT_THE_WAY.search(message)):
            level.failed[x, y, self.direction] = level.at(*aim)


def _stepped(before: Grid, after: Grid, dx: int, dy: int) -> bool:
    """Whether a step by (dx, dy) leads from one view to the next.

    The old view says whether the cell was free. The views themselves say more where their ground is
    not uniform: whichever of "stepped" and "stood" leaves fewer differences is right.
    """
    height, width = before.terrain.shape
    x, y = before.x + dx, before.y + dy
    aim = int(before.terrain[y, x])
    blocked = any(t.x == x and t.y == y and t.kind != "projectile" for t in before.things)
    free = not blocked and (aim in _CRAFTER_GROUND or aim == Terrain.HIDDEN)
    if before.terrain.shape != after.terrain.shape:
        return free
    old = before.terrain[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    new = after.terrain[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    if_stepped, if_stood = _differences(old, new), _differences(before.terrain, after.terrain)
    return free if if_stepped == if_stood else if_stepped < if_stood


def _differences(one: np.ndarray, other: np.ndarray) -> int:
    """Cells whose ground is seen in both and differs."""
    seen = (one > Terrain.HIDDEN) & (other > Terrain.HIDDEN)
    return int(np.count_nonzero(seen & (one != other)))


class MapObserver:
    """An observer of the level map: its own, or one that is kept up to date for it."""

    MAP = True

    def __init__(self, where: LevelMap | None = None, actions: Mapping[str, str] | None = None):
        self._keeps_map = where is None or bool(actions)
        self._where = LevelMap(actions or None) if self._keeps_map else where

    def update(self, percept: Percept) -> None:
        if self._keeps_map:
            self._where.update(percept)
