"""The typed map of a percept: terrain by cell, what stands on it, and where the player is.

Pure data: nothing here imports a game. Environments fill it (`fields["grid"]`), agents read it.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Terrain(enum.IntEnum):
    """What the ground of a cell is. UNKNOWN was never seen; HIDDEN lies under a thing."""

    UNKNOWN = 0
    HIDDEN = 1
    FLOOR = 2
    CORRIDOR = 3
    DOORWAY = 4  # no door, or a broken one
    DOOR_OPEN = 5
    DOOR_CLOSED = 6
    WALL = 7
    SOLID = 8  # rock; never seen as such, an observer infers it
    BARS = 9
    TREE = 10
    STAIRS_UP = 11
    STAIRS_DOWN = 12
    LADDER_UP = 13
    LADDER_DOWN = 14
    ALTAR = 15
    GRAVE = 16
    THRONE = 17
    SINK = 18
    FOUNTAIN = 19
    WATER = 20
    ICE = 21
    LAVA = 22
    BRIDGE = 23  # a lowered drawbridge
    BRIDGE_RAISED = 24
    AIR = 25
    CLOUD = 26
    TRAP = 27
    PORTAL = 28  # a magic portal: a trap that leads to another level
    GRASS = 29
    SAND = 30
    PATH = 31
    STONE = 32
    COAL = 33
    IRON = 34
    DIAMOND = 35
    TABLE = 36
    FURNACE = 37
    PLANT = 38
    OUTSIDE = 39  # beyond the world's edge

    @property
    def word(self) -> str:
        """How it is told: "stairs down"."""
        return _WORDS[self]


_WORDS = {kind: kind.name.lower().replace("_", " ") for kind in Terrain}


class Thing(NamedTuple):
    """Something on a cell.

    kind: "monster", "pet", "unseen" (a creature sensed, not seen), "engulfer" (the player is inside
    it), "projectile", "object", "boulder", "statue", "trap" or "cloud".
    """

    kind: str
    name: str
    x: int
    y: int


@dataclass(frozen=True, eq=False, repr=False)
class Grid:
    """Terrain and things as seen in one frame.

    Attributes:
      terrain: uint8 [H, W] of Terrain, row y (down is south), column x (right is east).
      x, y: the player's cell.
      things: everything seen on the ground, in reading order; the player is none of them.
      level: names the map; coordinates of different levels have nothing to do with each other.
      relative: the frame moves with the player (x and y never change).
      diagonals: the player can move diagonally.
    """

    terrain: np.ndarray
    x: int
    y: int
    things: tuple[Thing, ...] = ()
    level: str = ""
    relative: bool = False
    diagonals: bool = True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return (
            (self.x, self.y, self.level, self.relative, self.things)
            == (other.x, other.y, other.level, other.relative, other.things)
            and self.terrain.shape == other.terrain.shape
            and self.terrain.tobytes() == other.terrain.tobytes()
        )

    def __hash__(self) -> int:
        return hash((self.x, self.y, self.level, self.things, self.terrain.tobytes()))

    def __repr__(self) -> str:
        ground = hashlib.blake2b(self.terrain.tobytes(), digest_size=8).hexdigest()
        return (
            f"Grid({self.terrain.shape}, terrain={ground}, x={self.x}, y={self.y}, "
            f"things={self.things}, level={self.level!r}, relative={self.relative})"
        )
