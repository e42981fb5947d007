"""NetHack's glyphs as a typed grid, and the typed words of its status, inventory and questions.

Tables over all glyph ids are made once a process from NLE's own; a frame is two look-ups and a
short loop over what is not plain ground.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from automem_jax.envs import nethack_text
from automem_jax.envs.grid import Grid, Terrain, Thing

# Terrain by NetHack's map symbols (its defsym table), from the first one on.
_SYMBOLS = (
    (Terrain.UNKNOWN,)
    + (Terrain.WALL,) * 11
    + (Terrain.DOORWAY, Terrain.DOOR_OPEN, Terrain.DOOR_OPEN)
    + (Terrain.DOOR_CLOSED, Terrain.DOOR_CLOSED, Terrain.BARS, Terrain.TREE)
    + (Terrain.FLOOR, Terrain.FLOOR, Terrain.CORRIDOR, Terrain.CORRIDOR)
    + (Terrain.STAIRS_UP, Terrain.STAIRS_DOWN, Terrain.LADDER_UP, Terrain.LADDER_DOWN)
    + (Terrain.ALTAR, Terrain.GRAVE, Terrain.THRONE, Terrain.SINK, Terrain.FOUNTAIN)
    + (Terrain.WATER, Terrain.ICE, Terrain.LAVA, Terrain.BRIDGE, Terrain.BRIDGE)
    + (Terrain.BRIDGE_RAISED, Terrain.BRIDGE_RAISED, Terrain.AIR, Terrain.CLOUD, Terrain.WATER)
)
_FIRST_TRAP, _FIRST_EFFECT = len(_SYMBOLS), 65
_KINDS = ("", "monster", "pet", "unseen", "engulfer", "object", "boulder", "statue", "trap")
_KINDS += ("cloud",)
_HALLUCINATED = "hallucination"
# Dungeon branches by NetHack's number; the main dungeon's levels are plain numbers.
_BRANCHES = ("", "", "mines", "quest", "sokoban", "ludios", "tower", "planes")


class GlyphTables(NamedTuple):
    """By glyph id: terrain uint8 [G], index into _KINDS uint8 [G], and what the thing is called."""

    terrain: np.ndarray
    kinds: np.ndarray
    names: tuple[str, ...]


@functools.cache
def glyph_tables() -> GlyphTables:
    """Builds the tables; once a process."""
    from nle import nethack

    count = nethack.MAX_GLYPH + 1
    # What hides the ground is HIDDEN; beams and explosions pass, the ground is not known under them.
    terrain = np.full(count, Terrain.HIDDEN, np.uint8)
    kinds = np.zeros(count, np.uint8)
    names = list(nethack_text.glyph_names().singular)

    def mark(start: int, length: int, kind: str) -> None:
        kinds[start : start + length] = _KINDS.index(kind)

    mark(nethack.GLYPH_MON_OFF, nethack.NUMMONS, "monster")
    mark(nethack.GLYPH_PET_OFF, nethack.NUMMONS, "pet")
    mark(nethack.GLYPH_INVISIBLE, 1, "unseen")
    mark(nethack.GLYPH_DETECT_OFF, nethack.NUMMONS, "monster")
    mark(nethack.GLYPH_RIDDEN_OFF, nethack.NUMMONS, "pet")
    mark(nethack.GLYPH_BODY_OFF, nethack.NUMMONS, "object")
    mark(nethack.GLYPH_OBJ_OFF, nethack.NUM_OBJECTS, "object")
    mark(nethack.GLYPH_STATUE_OFF, nethack.NUMMONS, "statue")
    mark(nethack.GLYPH_WARNING_OFF, nethack.GLYPH_STATUE_OFF - nethack.GLYPH_WARNING_OFF, "unseen")
    for monster in range(nethack.NUMMONS):
        name = nethack.permonst(monster).mname
        for start in (nethack.GLYPH_PET_OFF, nethack.GLYPH_DETECT_OFF, nethack.GLYPH_RIDDEN_OFF):
            names[start + monster] = name
        first = nethack.GLYPH_SWALLOW_OFF + 8 * monster
        names[first : first + 8] = [name] * 8
    for number in range(nethack.NUM_OBJECTS):
        if nethack.OBJ_NAME(nethack.objclass(number)) == "boulder":
            mark(nethack.GLYPH_OBJ_OFF + number, 1, "boulder")

    passing = slice(nethack.GLYPH_EXPLODE_OFF, nethack.GLYPH_WARNING_OFF)
    terrain[passing] = Terrain.UNKNOWN
    mark(
        nethack.GLYPH_SWALLOW_OFF,
        nethack.GLYPH_WARNING_OFF - nethack.GLYPH_SWALLOW_OFF,
        "engulfer",
    )
    terrain[nethack.MAX_GLYPH] = Terrain.UNKNOWN
    symbols = nethack.GLYPH_CMAP_OFF
    terrain[symbols : symbols + _FIRST_TRAP] = _SYMBOLS
    terrain[symbols + _FIRST_TRAP : symbols + _FIRST_EFFECT] = Terrain.TRAP
    mark(symbols + _FIRST_TRAP, _FIRST_EFFECT - _FIRST_TRAP, "trap")
    terrain[symbols + _FIRST_EFFECT : nethack.GLYPH_EXPLODE_OFF] = Terrain.UNKNOWN
    for symbol in range(_FIRST_TRAP, nethack.GLYPH_EXPLODE_OFF - symbols):
        words = nethack.symdef.from_idx(symbol).explanation
        if words == "magic portal":
            terrain[symbols + symbol] = Terrain.PORTAL
        if words == "poison cloud":
            mark(symbols + symbol, 1, "cloud")
    return GlyphTables(terrain, kinds, tuple(names))


def make_grid(glyphs: np.ndarray, blstats: Sequence[int], hallucinating: bool) -> Grid:
    """The typed grid of a frame.

    Args:
      glyphs: int16 [21, 79].
      blstats: NLE's 27 numbers; the player's cell and level come from here.
      hallucinating: creatures and objects lose their names, boulders and statues their kind.
    """
    tables = glyph_tables()
    x, y = blstats[0], blstats[1]
    width = glyphs.shape[1]
    flat = glyphs.reshape(-1).astype(np.intp)
    kinds = tables.kinds.take(flat)
    cells = kinds.nonzero()[0]
    here = y * width + x
    things: list[Thing] = []
    engulfed = None
    for cell, code, glyph in zip(
        cells.tolist(), kinds[cells].tolist(), flat[cells].tolist(), strict=True
    ):
        if cell == here:
            continue
        kind, name = _KINDS[code], tables.names[glyph]
        if kind == "engulfer":
            if abs(cell % width - x) <= 1 and abs(cell // width - y) <= 1:
                engulfed = _HALLUCINATED if hallucinating else name
            continue
        if hallucinating and kind not in ("trap", "cloud", "unseen"):
            name = _HALLUCINATED
            kind = "object" if kind in ("boulder", "statue") else kind
        things.append(Thing(kind, name, cell % width, cell // width))
    if engulfed is not None:
        things = [Thing("engulfer", engulfed, x, y)]
    level = _level(blstats[23], blstats[12])
    return Grid(tables.terrain.take(flat).reshape(glyphs.shape), x, y, tuple(things), level)


@functools.lru_cache(maxsize=256)
def _level(dungeon: int, depth: int) -> str:
    branch = _BRANCHES[dungeon] if 0 <= dungeon < len(_BRANCHES) else f"dungeon{dungeon}-"
    return f"{branch}{depth}"


@functools.lru_cache(maxsize=512)
def condition_words(mask: int) -> tuple[str, ...]:
    """The status conditions of a bit mask, in words: ("Hallucinating", "Blind")."""
    return tuple(words for bit, words in nethack_text.condition_bits() if mask & bit)


def hunger_word(hunger: int) -> str:
    """Hunger in NetHack's word: "Not Hungry", "Hungry", "Weak", ..., empty for an unknown number."""
    words = nethack_text.HUNGER
    return words[hunger] if 0 <= hunger < len(words) else ""


def inventory_items(inventory: str) -> tuple[tuple[str, str], ...]:
    """(letter, text) of every item of `nethack_text.describe_inventory`'s lines."""
    return tuple((line[0], line[3:]) for line in inventory.split("\n")) if inventory else ()


_CHOICES = re.compile(r"\[([^\[\]]+)\]")
_RANGE = re.compile(r"(\w)-(\w)")
_MENU_LINE = re.compile(r"^\s*(\S) [-+#] ", re.MULTILINE)
_NO_QUESTION: dict[str, Any] = {"kind": "", "text": "", "options": ()}
COMPASS = ("north", "east", "south", "west", "northeast", "southeast", "southwest", "northwest")


def question(prompt: str, message: str, names: Mapping[str, str]) -> dict[str, Any]:
    """What the game waits for.

    Args:
      prompt: the percept's `prompt` ("" where a command is expected).
      message: the percept's message; the question is its last line.
      names: action name by the character it types.

    Returns:
      kind: "", "choice", "text" or "more"; text: the question; options: the action names that
        answer it, empty where the game does not say.
    """
    if not prompt:
        return _NO_QUESTION
    lines = [line for line in message.split("\n") if line.strip()]
    if prompt == "more":
        letters = _MENU_LINE.findall(message)
        options = [names[c] for c in letters if c in names]
        options += [name for name in ("more",) if name in names.values() and not options]
        return {"kind": prompt, "text": message, "options": tuple(dict.fromkeys(options))}
    text = lines[-1].strip() if lines else ""
    if prompt == "text":
        return {"kind": prompt, "text": text, "options": ()}
    if "direction" in text:
        known = set(names.values())
        return {"kind": prompt, "text": text, "options": tuple(w for w in COMPASS if w in known)}
    found = _CHOICES.search(text)
    options = _spelt(found[1]) if found else []
    named = tuple(dict.fromkeys(names[c] for c in options if c in names))
    return {"kind": prompt, "text": text, "options": named}


def _spelt(choices: str) -> list[str]:
    """The characters of "ynq", "a-dfg or ?*", "$ or ?*"."""
    letters = choices.partition(" or ")[0]
    letters = _RANGE.sub(lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))), letters)
    return [c for c in letters if c != " "]
