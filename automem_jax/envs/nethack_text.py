"""NetHack in words: NLE's arrays -> the text observation that BALROG shows its agents.

Every name comes from NetHack's own tables as `nle.nethack` exposes them (monsters, objects); only
map symbols, which those tables call "wall" or leave unnamed, are worded here.

How the map is told, as read off recorded observations:
  * Seen from anywhere: monsters, objects, corpses, statues, closed doors, stairs, fountains, lava
    and other furniture. Told only along the eight straight lines from the player: walls, doorways,
    open doors, bars and the dark, nine cells far. A line ends at the first wall or dark cell.
    Floors, corridors and traps off these lines are not told.
  * Distance is max(|dx|, |dy|): adjacent 1, very near 2, near to 5, far to 19, else very far.
  * Direction: the eight straight ones are exact (dx = 0, dy = 0 or |dx| = |dy|); all else falls in
    the octant between two of them (eastnortheast, ...).
  * Things of one name, distance and direction become one plural; same name and distance share a
    line, the plural has its own after it. Lines run from far to near, and clockwise from north.

Legend: y row 0..20, x column 0..78 of the map; dx > 0 is east, dy > 0 is south.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ROWS, COLS = 21, 79
LINE_CELLS = 9
DISTANCES = ("very far", "far", "near", "very near", "adjacent")
DIRECTIONS = (
    "north",
    "northnortheast",
    "northeast",
    "eastnortheast",
    "east",
    "eastsoutheast",
    "southeast",
    "southsoutheast",
    "south",
    "southsouthwest",
    "southwest",
    "westsouthwest",
    "west",
    "westnorthwest",
    "northwest",
    "northnorthwest",
)

# How a glyph is told: not at all, along straight lines, along them and ending them, from anywhere.
HIDDEN, ON_LINE, ENDS_LINE, ANYWHERE = range(4)


class NetHackText(NamedTuple):
    """The five texts of one observation."""

    glyphs: str
    message: str
    blstats: str
    inventory: str
    cursor: str


# Map symbols in the order of NetHack's defsym table: (words, how they are told).
_SYMBOLS: tuple[tuple[str, int], ...] = (
    ("dark area", ENDS_LINE),
    ("vertical wall", ENDS_LINE),
    ("horizontal wall", ENDS_LINE),
    ("northwest room corner", ENDS_LINE),
    ("northeast room corner", ENDS_LINE),
    ("southwest corner", ENDS_LINE),
    ("southeast corner", ENDS_LINE),
    ("cross wall", ENDS_LINE),
    ("tee up wall", ENDS_LINE),
    ("tee down wall", ENDS_LINE),
    ("tee left wall", ENDS_LINE),
    ("tee right wall", ENDS_LINE),
    ("doorway", ON_LINE),
    ("vertical open door", ON_LINE),
    ("horizontal open door", ON_LINE),
    ("vertical closed door", ANYWHERE),
    ("horizontal closed door", ANYWHERE),
    ("bars", ON_LINE),
    ("tree", ON_LINE),
    ("", HIDDEN),  # floor of a room
    ("", HIDDEN),  # dark part of a room
    ("", HIDDEN),  # corridor
    ("", HIDDEN),  # lit corridor
    ("stairs up", ANYWHERE),
    ("stairs down", ANYWHERE),
    ("ladder up", ANYWHERE),
    ("ladder down", ANYWHERE),
    ("altar", ANYWHERE),
    ("grave", ANYWHERE),
    ("throne", ANYWHERE),
    ("sink", ANYWHERE),
    ("fountain", ANYWHERE),
    ("water", ANYWHERE),
    ("ice", ANYWHERE),
    ("lava", ANYWHERE),
    ("vertical open drawbridge", ANYWHERE),
    ("horizontal open drawbridge", ANYWHERE),
    ("vertical closed drawbridge", ANYWHERE),
    ("horizontal closed drawbridge", ANYWHERE),
    ("air", HIDDEN),
    ("cloud", ANYWHERE),
    ("water", ANYWHERE),
)
_FIRST_TRAP, _FIRST_BEAM = 42, 65
_BEAMS = ("vertical beam", "horizontal beam", "left slant beam", "right slant beam")
_AREAS = ("lava", "water", "ice")
_PLACES = ("top", "middle", "bottom")
_SWALLOW = tuple(
    f"{row} {col}"
    for row in _PLACES
    for col in ("left", "center", "right")
    if (row, col) != ("middle", "center")
)
_EXPLOSION = tuple(f"{row} {col}" for row in _PLACES for col in ("left", "center", "right"))
_ZAPS = ("horizontal", "vertical", "left slant", "right slant")

_HUNGER = ("Satiated", "Not Hungry", "Hungry", "Weak", "Fainting", "Fainted", "Starved")
_BURDEN = ("Unencumbered", "Burdened", "Stressed", "Strained", "Overtaxed", "Overloaded")
_ALIGNMENT = {-1: "Chaotic", 0: "Neutral", 1: "Lawful"}
_CONDITIONS = (
    ("FLY", "Flying"),
    ("LEV", "Levitating"),
    ("HALLU", "Hallucinating"),
    ("CONF", "Confused"),
    ("STUN", "Stunned"),
    ("DEAF", "Deaf"),
    ("BLIND", "Blind"),
    ("TERMILL", "Terminally Ill"),
    ("FOODPOIS", "Food Poisoning"),
    ("STRNGL", "Strangled"),
    ("SLIME", "Slimed"),
    ("RIDE", "Riding"),
    ("STONE", "Stoned"),
)


def describe(obs: Mapping[str, np.ndarray]) -> NetHackText:
    """Words for one frame.

    Args:
      obs: NLE arrays `glyphs` [21, 79], `blstats` [27], `tty_chars` [24, 80], `tty_cursor` [2]
        (row, column of the terminal), `inv_letters` [55], `inv_strs` [55, 80].

    Returns:
      The five texts; `cursor` is empty when the cursor is not on the map.
    """
    blstats = obs["blstats"].tolist()
    glyphs = obs["glyphs"]
    return NetHackText(
        glyphs=describe_glyphs(glyphs, blstats[0], blstats[1]),
        message=describe_message(obs["tty_chars"]),
        blstats=describe_blstats(blstats),
        inventory=describe_inventory(obs["inv_letters"], obs["inv_strs"]),
        cursor=describe_cursor(glyphs, obs["tty_cursor"], blstats[0], blstats[1]),
    )


def describe_glyphs(glyphs: np.ndarray, x: int, y: int) -> str:
    """The map in words, seen from column `x`, row `y`; one line a name and distance."""
    names = glyph_names()
    flat = glyphs.reshape(-1)
    told = names.told[flat]
    rank = _rank_from(x, y)
    lines, bounds = _lines_from(x, y)
    on_lines = told[lines]
    ends = on_lines == ENDS_LINE
    # Along each line keep what comes up to and including its first end.
    before = np.cumsum(ends, axis=1) - ends
    shown = (before == 0) & bounds & ((on_lines == ON_LINE) | ends)
    anywhere = told == ANYWHERE
    anywhere[y * COLS + x] = False
    cells = np.concatenate([np.flatnonzero(anywhere), lines[shown]])
    cells = cells[np.argsort(rank[cells], kind="stable")]
    groups: dict[tuple[str, int, int], int] = {}
    distance_of, direction_of = _geometry_from(x, y)
    for glyph, distance, direction in zip(
        flat[cells].tolist(), distance_of[cells].tolist(), direction_of[cells].tolist(), strict=True
    ):
        key = (names.singular[glyph], distance, direction)
        groups[key] = groups.get(key, 0) + 1
    # Per name and distance: directions that hold one thing, and those that hold several.
    sentences: dict[tuple[str, int], tuple[list[str], list[str]]] = {}
    for (name, distance, direction), count in groups.items():
        one_many = sentences.setdefault((name, distance), ([], []))
        one_many[count > 1].append(DIRECTIONS[direction])
    told_lines = []
    for (name, distance), (one, many) in sentences.items():
        if one:
            told_lines.append(f"{name} {DISTANCES[distance]} {_listing(one)}")
        if many:
            told_lines.append(f"{names.plural[name]} {DISTANCES[distance]} {_listing(many)}")
    return "\n".join(told_lines)


def describe_message(tty_chars: np.ndarray) -> str:
    """The message line, as the terminal shows it."""
    return tty_chars[0].tobytes().decode("latin-1").rstrip(" \0")


def describe_blstats(blstats: list[int]) -> str:
    """The bottom-line statistics, one `Name: value` a line."""
    b = blstats
    conditions = [words for bit, words in _condition_bits() if b[25] & bit]
    return (
        f"Strength: {b[3]}/{b[2]}\nDexterity: {b[4]}\nConstitution: {b[5]}\n"
        f"Intelligence: {b[6]}\nWisdom: {b[7]}\nCharisma: {b[8]}\nDepth: {b[12]}\nGold: {b[13]}\n"
        f"HP: {b[10]}/{b[11]}\nEnergy: {b[14]}/{b[15]}\nAC: {b[16]}\nXP: {b[18]}/{b[19]}\n"
        f"Time: {b[20]}\nPosition: {b[0]}|{b[1]}\nHunger: {_HUNGER[b[21]]}\n"
        f"Monster Level: {b[17]}\nEncumbrance: {_BURDEN[b[22]]}\nDungeon Number: {b[23]}\n"
        f"Level Number: {b[24]}\nScore: {b[9]}\nAlignment: {_ALIGNMENT.get(b[26], 'None')}\n"
        f"Condition: {' '.join(conditions) or 'None'}"
    )


def describe_inventory(letters: np.ndarray, strings: np.ndarray) -> str:
    """The inventory, one `letter: item` a line."""
    codes = letters.tobytes()
    width = strings.shape[1]
    used = len(codes.rstrip(b"\0"))
    raw = strings[:used].tobytes().decode("latin-1")
    return "\n".join(
        f"{chr(codes[i])}: {raw[i * width : (i + 1) * width].partition(chr(0))[0].rstrip()}"
        for i in range(used)
        if codes[i]
    )


def describe_cursor(glyphs: np.ndarray, tty_cursor: np.ndarray, x: int, y: int) -> str:
    """What is under the terminal's cursor, empty when the cursor is off the map."""
    row, column = int(tty_cursor[0]) - 1, int(tty_cursor[1])
    if not (0 <= row < ROWS and 0 <= column < COLS):
        return ""
    name = glyph_names().cursor[int(glyphs[row, column])]
    if (column, row) == (x, y):
        return f"Yourself a {name}"
    distance, direction = _geometry_from(x, y)
    cell = row * COLS + column
    return f"{name} {DISTANCES[distance[cell]]} {DIRECTIONS[direction[cell]]}"


class GlyphNames(NamedTuple):
    """Tables over all glyph ids (0..MAX_GLYPH).

    Attributes:
      told: uint8 [G], one of HIDDEN, ON_LINE, ENDS_LINE, ANYWHERE.
      singular: name a glyph id.
      plural: plural form of each name.
      cursor: name a glyph id, floors and corridors included.
    """

    told: np.ndarray
    singular: tuple[str, ...]
    plural: dict[str, str]
    cursor: tuple[str, ...]


@functools.cache
def glyph_names() -> GlyphNames:
    """Builds the name tables from NLE's own; once a process."""
    from nle import nethack

    told = np.full(nethack.MAX_GLYPH + 1, ANYWHERE, np.uint8)
    names = [""] * (nethack.MAX_GLYPH + 1)
    plural: dict[str, str] = {}
    cursor: dict[int, str] = {}

    def put(glyph: int, name: str, many: str | None = None) -> None:
        names[glyph] = name
        plural[name] = many if many is not None else pluralize(name)

    for m in range(nethack.NUMMONS):
        name = nethack.permonst(m).mname
        many = pluralize(name)
        put(nethack.GLYPH_MON_OFF + m, name, many)
        put(nethack.GLYPH_PET_OFF + m, f"tame {name}", f"tame {many}")
        put(nethack.GLYPH_DETECT_OFF + m, f"detected {name}", f"detected {many}")
        put(nethack.GLYPH_RIDDEN_OFF + m, f"ridden {name}", f"ridden {many}")
        put(nethack.GLYPH_BODY_OFF + m, f"{name} corpse")
        put(nethack.GLYPH_STATUE_OFF + m, f"{name} statue")
        for part, words in enumerate(_SWALLOW):
            swallowed = f"swallow {words}"
            put(nethack.GLYPH_SWALLOW_OFF + 8 * m + part, swallowed, swallowed)
    put(nethack.GLYPH_INVISIBLE, "invisible creature")
    for o in range(nethack.NUM_OBJECTS):
        put(nethack.GLYPH_OBJ_OFF + o, *_object_names(nethack, nethack.objclass(o)))
    for c in range(nethack.GLYPH_EXPLODE_OFF - nethack.GLYPH_CMAP_OFF):
        glyph = nethack.GLYPH_CMAP_OFF + c
        explanation = nethack.symdef.from_idx(c).explanation
        if c < len(_SYMBOLS):
            name, told[glyph] = _SYMBOLS[c]
            cursor[glyph] = name or explanation
        elif c < _FIRST_BEAM:
            name, told[glyph] = explanation, ON_LINE
        elif c < _FIRST_BEAM + len(_BEAMS):
            name = _BEAMS[c - _FIRST_BEAM]
        else:
            name = explanation or _EFFECTS.get(c, "magic effect")
        put(glyph, name, f"area of {name}" if name in _AREAS else None)
    for e in range(nethack.GLYPH_ZAP_OFF - nethack.GLYPH_EXPLODE_OFF):
        words = f"explosion {_EXPLOSION[e % nethack.MAXEXPCHARS]}"
        put(nethack.GLYPH_EXPLODE_OFF + e, words, words)
    for beam in range(nethack.GLYPH_SWALLOW_OFF - nethack.GLYPH_ZAP_OFF):
        put(nethack.GLYPH_ZAP_OFF + beam, f"{_ZAPS[beam % 4]} zap beam")
    for level in range(nethack.WARNCOUNT):
        put(nethack.GLYPH_WARNING_OFF + level, f"warning level {level}")
    told[nethack.MAX_GLYPH] = HIDDEN
    for wall in (name for name, how in _SYMBOLS if how == ENDS_LINE):
        plural[wall] = wall
    under = tuple(cursor.get(g, name) for g, name in enumerate(names))
    return GlyphNames(told, tuple(names), plural, under)


# Map symbols that NetHack leaves unnamed, by their place in its defsym table.
_EFFECTS = {
    69: "dig beam",
    70: "flash beam",
    71: "boomerang left",
    72: "boomerang right",
    73: "shield 1",
    74: "shield 2",
    75: "shield 3",
    76: "shield 4",
} | {79 + part: f"swallow {words}" for part, words in enumerate(_SWALLOW)}


def pluralize(name: str) -> str:
    """English plural of a thing's name: the head noun before "of", "labeled" or "from" changes."""
    for link in (" of ", " labeled ", " versus ", " from "):
        head, found, tail = name.partition(link)
        if found:
            return pluralize(head) + found + tail
    if name.endswith("man") and not name.endswith(("human", "shaman", "caiman")):
        return name[:-3] + "men"
    for ending, many in (
        ("staff", "staves"),
        ("knife", "knives"),
        ("leaf", "leaves"),
        ("wolf", "wolves"),
        ("thief", "thieves"),
        ("elf", "elves"),
        ("mouse", "mice"),
        ("tooth", "teeth"),
        ("foot", "feet"),
    ):
        if name.endswith(ending):
            return name[: -len(ending)] + many
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return name + "es"
    return name + "s"


def _object_names(nethack, kind) -> tuple[str, str | None]:
    """(singular, plural or None for the regular one) of an object as a newcomer knows it."""
    label = ord(kind.oc_class) if isinstance(kind.oc_class, str) else int(kind.oc_class)
    name, look = nethack.OBJ_NAME(kind), nethack.OBJ_DESCR(kind)
    if label == nethack.WEAPON_CLASS:
        return name, None
    if label == nethack.RING_CLASS:
        return f"{look} ring", None
    if label == nethack.AMULET_CLASS:
        return (look if look == "Amulet of Yendor" else f"{look} amulet"), None
    if label == nethack.POTION_CLASS:
        return f"{look} potion", None
    if label == nethack.SCROLL_CLASS:
        if look == "unlabeled":
            return "unlabeled scroll", None
        return f"scroll labeled {look}", f"scrolls labeled {look}"
    if label == nethack.SPBOOK_CLASS:
        return f"{look} spellbook", None
    if label == nethack.WAND_CLASS:
        return f"{look} wand", None
    if label == nethack.GEM_CLASS and look:
        return (f"{look} stone" if look == "gray" else f"{look} gem"), None
    words = look or name
    if label == nethack.ARMOR_CLASS and words.endswith(("boots", "gloves", "shoes", "scales")):
        return words, words
    return words, None


@functools.cache
def _condition_bits() -> tuple[tuple[int, str], ...]:
    from nle import nethack

    return tuple((getattr(nethack, f"BL_MASK_{bit}"), words) for bit, words in _CONDITIONS)


def _listing(words: list[str]) -> str:
    """a; a and b; a, b, and c."""
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


@functools.cache
def _offset_tables() -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction index by offset: uint8 [41, 157], centre at [20, 78]."""
    dy, dx = np.mgrid[-(ROWS - 1) : ROWS, -(COLS - 1) : COLS]
    reach = np.maximum(np.abs(dx), np.abs(dy))
    distance = 4 - np.searchsorted([1, 2, 5, 19], reach).astype(np.uint8)
    ax, ay = np.abs(dx), np.abs(dy)
    # Eighths of a turn from the nearest axis: 0 on it, 1 between, 2 on the diagonal.
    tilt = np.where(np.minimum(ax, ay) == 0, 0, np.where(ax == ay, 2, 1))
    vertical = ay > ax
    north, east = dy < 0, dx > 0
    clockwise = np.select(
        [north & vertical, vertical, east],
        [
            np.where(dx >= 0, tilt, -tilt),
            np.where(east, 8 - tilt, 8 + tilt),
            4 + np.where(north, -tilt, tilt),
        ],
        12 + np.where(north, tilt, -tilt),
    )
    return distance, (clockwise % 16).astype(np.uint8)


@functools.lru_cache(maxsize=ROWS * COLS)
def _geometry_from(x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction index of every cell (flat) seen from (x, y)."""
    distance, direction = _offset_tables()
    window = np.s_[ROWS - 1 - y : 2 * ROWS - 1 - y, COLS - 1 - x : 2 * COLS - 1 - x]
    return distance[window].reshape(-1).copy(), direction[window].reshape(-1).copy()


@functools.lru_cache(maxsize=ROWS * COLS)
def _rank_from(x: int, y: int) -> np.ndarray:
    """The order in which cells are told, seen from (x, y): far to near, then clockwise."""
    distance, direction = _geometry_from(x, y)
    return distance.astype(np.int32) * 16 + direction


@functools.lru_cache(maxsize=ROWS * COLS)
def _lines_from(x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """The eight straight lines from (x, y): flat cells [8, 9] near to far; which are on the map."""
    steps = np.arange(1, LINE_CELLS + 1)
    sx = np.array([0, 1, 1, 1, 0, -1, -1, -1])[:, None]
    sy = np.array([-1, -1, 0, 1, 1, 1, 0, -1])[:, None]
    cx, cy = x + sx * steps, y + sy * steps
    inside = (cx >= 0) & (cx < COLS) & (cy >= 0) & (cy < ROWS)
    return np.where(inside, cy * COLS + cx, 0), inside
