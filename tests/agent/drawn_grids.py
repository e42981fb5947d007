"""Percepts with grids drawn in characters."""

import numpy as np

from automem_jax.envs.base import Percept
from automem_jax.envs.grid import Grid, Terrain, Thing

GROUND = {
    " ": Terrain.UNKNOWN,
    ".": Terrain.FLOOR,
    ",": Terrain.CORRIDOR,
    "#": Terrain.WALL,
    "'": Terrain.DOORWAY,
    "/": Terrain.DOOR_OPEN,
    "+": Terrain.DOOR_CLOSED,
    "<": Terrain.STAIRS_UP,
    ">": Terrain.STAIRS_DOWN,
    "~": Terrain.WATER,
    "!": Terrain.LAVA,
    "^": Terrain.TRAP,
    "g": Terrain.GRASS,
    "T": Terrain.TREE,
}
THINGS = {"0": ("boulder", "boulder"), "j": ("monster", "jackal"), "f": ("pet", "kitten")}
THINGS |= {"*": ("object", "gem"), "Z": ("monster", "zombie")}


def grid_of(*rows, level="1", relative=False):
    """A grid drawn in characters; column 0 of an absolute one is left blank."""
    width = max(map(len, rows))
    terrain = np.zeros((len(rows), width), np.uint8)
    here, things = (0, 0), []
    for y, row in enumerate(rows):
        for x, character in enumerate(row):
            if character in GROUND:
                terrain[y, x] = GROUND[character]
            else:
                terrain[y, x] = Terrain.HIDDEN
                if character == "@":
                    here = (x, y)
                else:
                    things.append(Thing(*THINGS[character], x, y))
    return Grid(terrain, *here, tuple(things), level, relative, not relative)


def seen(*rows, action=None, level="1", relative=False, step=0, **fields):
    """A percept with such a grid; more fields by name."""
    level = "" if relative else level
    grid = grid_of(*rows, level=level, relative=relative)
    return Percept("", "", {"grid": grid, **fields}, (), step=step, action=action)


VIEW = ("ggggggggg",) * 3 + ("gggg@gggg",) + ("ggggggggg",) * 3


def view(*changes):
    """Rows of a view of grass around the player, with characters at (x, y) put in."""
    rows = [list(row) for row in VIEW]
    for x, y, character in changes:
        rows[y][x] = character
    return ["".join(row) for row in rows]
