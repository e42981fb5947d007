"""NetHack in words: NLE's arrays -> the text observation that BALROG shows its agents.

Every name comes from NetHack's own tables as `nle.nethack` exposes them (monsters, objects); only
map symbols, which those tables call "wall" or leave unnamed, are worded here.

How the map is told (found by comparing with the benchmark's observations, slips included):
  * Seen from anywhere: monsters, objects, corpses, statues, closed doors, bars, trees, stairs,
    fountains, lava and other furniture. Told only along the eight straight lines from the player:
    walls, doorways, open doors, lowered drawbridges, traps, beams and the dark, nine cells far. A
    line ends at the first wall or dark cell. Floors and corridors are not told.
  * Distance is max(|dx|, |dy|): adjacent 1, very near 2, near to 5, far to 19, else very far.
  * Direction: the eight straight ones are exact (dx = 0, dy = 0 or |dx| = |dy|); all else falls in
    the octant between two of them (eastnortheast, ...).
  * Things of one name, distance and direction become one plural; same name and distance share a
    line, the plural has its own after it. Lines run from far to near, and clockwise from north.

Legend: y row 0..20, x column 0..78 of the map; dx > 0 is east, dy > 0 is south.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ROWS, COLS = 21, 79
LINE_CELLS = 9
DISTANCES = ("very far", "far", "near", "very near", "adjacent")
# Indexed like DISTANCES, from far to near: 78 tiles first, 1 tile at 77.
_TILES = (*(f"{n} tiles" for n in range(COLS - 1, 1, -1)), "1 tile", "here")
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


# Map symbols in the order of NetHack's defsym table: (words, how they are told). The wording is the
# benchmark's, "alter" for the altar included.
_SYMBOLS: tuple[tuple[str, int], ...] = (
    ("dark area", ENDS_LINE),
    ("vertical wall", ENDS_LINE),
    ("horizontal wall", ENDS_LINE),
    ("northwest room corner", ENDS_LINE),
    ("northeast room corner", ENDS_LINE),
    ("southwest corner", ENDS_LINE),
    ("southeast corner", ENDS_LINE),
    ("cross wall", ENDS_LINE),
    ("t up wall", ENDS_LINE),
    ("t down wall", ENDS_LINE),
    ("t west wall", ENDS_LINE),
    ("t east wall", ENDS_LINE),
    ("doorway", ON_LINE),
    ("vertical open door", ON_LINE),
    ("horizontal open door", ON_LINE),
    ("vertical closed door", ANYWHERE),
    ("horizontal closed door", ANYWHERE),
    ("bars", ANYWHERE),
    ("tree", ANYWHERE),
    ("", HIDDEN),  # floor of a room
    ("", HIDDEN),  # dark part of a room
    ("", HIDDEN),  # corridor
    ("", HIDDEN),  # lit corridor
    ("stairs up", ANYWHERE),
    ("stairs down", ANYWHERE),
    ("ladder up", ANYWHERE),
    ("ladder down", ANYWHERE),
    ("alter", ANYWHERE),
    ("grave", ANYWHERE),
    ("throne", ANYWHERE),
    ("sink", ANYWHERE),
    ("fountain", ANYWHERE),
    ("pool", ANYWHERE),
    ("ice", ANYWHERE),
    ("lava", ANYWHERE),
    ("vertical lowered drawbridge", ON_LINE),
    ("horizontal lowered drawbridge", ON_LINE),
    ("vertical raised drawbridge", ANYWHERE),
    ("horizontal raised drawbridge", ANYWHERE),
    ("air floor", ON_LINE),
    ("cloud floor", ON_LINE),
    ("water floor", ON_LINE),
)
_FIRST_BEAM = 65  # between the symbols above and this one: traps, by NetHack's own words
_PLACES = tuple(
    f"{row} {column}"
    for row in ("top", "middle", "bottom")
    for column in ("left", "center", "right")
)
_AROUND = tuple(place for place in _PLACES if place != "middle center")
# Beams and effects, told along lines: (word, what follows the word, its plural ending included).
_EFFECTS = (
    ("vertical beam", ""),
    ("horizontal beam", ""),
    ("left slant beam", ""),
    ("right slant beam", ""),
    ("dig beam", ""),
    ("flash beam", ""),
    ("boom", " left"),
    ("boom", " right"),
    ("shield", " 1"),
    ("shield", " 2"),
    ("shield", " 3"),
    ("shield", " 4"),
    ("poison cloud", ""),
    ("valid position", ""),
    *(("swallow", f" {place}") for place in _AROUND),
)
_ZAPS = ("horizontal", "vertical", "left slant", "right slant")

HUNGER = ("Satiated", "Not Hungry", "Hungry", "Weak", "Fainting", "Fainted", "Starved")
_BURDEN = ("Unencumbered", "Burdened", "Stressed", "Strained", "Overtaxed", "Overloaded")
_ALIGNMENT = {-128: "None", -1: "Chaotic", 0: "Neutral", 1: "Lawful"}
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


def describe(obs: Mapping[str, np.ndarray], *, numeric_distances: bool = False) -> NetHackText:
    """Words for one frame.

    Args:
      obs: NLE arrays `glyphs` [21, 79], `blstats` [27], `tty_chars` [24, 80], `tty_cursor` [2]
        (row, column of the terminal), `inv_letters` [55], `inv_strs` [55, 80].
      numeric_distances: distances as "1 tile", "7 tiles" in place of "adjacent", "far".

    Returns:
      The five texts; `cursor` is empty when the cursor is not on the map.
    """
    blstats = obs["blstats"].tolist()
    glyphs = obs["glyphs"]
    return NetHackText(
        glyphs=describe_glyphs(glyphs, blstats[0], blstats[1], numeric_distances=numeric_distances),
        message=describe_message(obs["tty_chars"]),
        blstats=describe_blstats(blstats),
        inventory=describe_inventory(obs["inv_letters"], obs["inv_strs"]),
        cursor=describe_cursor(
            glyphs, obs["tty_cursor"], blstats[0], blstats[1], numeric_distances=numeric_distances
        ),
    )


def describe_glyphs(glyphs: np.ndarray, x: int, y: int, *, numeric_distances: bool = False) -> str:
    """The map in words, seen from column `x`, row `y`; one line a name and distance."""
    names = glyph_names()
    flat = glyphs.reshape(-1)
    told = names.told[flat]
    rank = _rank_from(x, y, numeric_distances)
    distances = _TILES if numeric_distances else DISTANCES
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
    distance_of, direction_of = _geometry_from(x, y, numeric_distances)
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
        if one and many and names.plural[name] == name:
            one = many  # the benchmark mixes up "boots" (one pair) and "boots" (many)
        if one:
            told_lines.append(f"{name} {distances[distance]} {_listing(one)}")
        if many:
            told_lines.append(f"{names.plural[name]} {distances[distance]} {_listing(many)}")
    return "\n".join(told_lines)


def describe_message(tty_chars: np.ndarray) -> str:
    """The message as the terminal shows it: the top line, or a whole menu or text page.

    A page is told from the top line down to its mark ("(end)", "(1 of 2)", "--More--"), without
    blank lines and left of where the top line begins. Screens with no mark give the top line only.
    """
    rows, columns = tty_chars.shape
    chars = tty_chars.tobytes().decode("latin-1")
    top = _trim(chars[:columns])
    if not any(mark in chars for mark in ("--More--", "(end)", " of ")):
        return top
    if not (top or _trim(chars[columns : 2 * columns])):
        return top
    left = len(chars[:columns]) - len(chars[:columns].lstrip(" "))
    # A blank top line leaves the page unindented; a line then starts one character early.
    left = left if left < columns else -1
    told = []
    for start in range(0, rows * columns, columns):
        line = _trim(chars[max(start + left, 0) : start + columns])
        if line:
            told.append(line)
        if _ends_page(line):
            return "\n".join(told)
    return top


def _ends_page(line: str) -> bool:
    if "--More--" in line or "(end)" in line:
        return True
    at = line.find(" of ")
    return at > 1 and line[at - 2] == "(" and line[at + 5 : at + 6] == ")"


def _trim(line: str) -> str:
    """The line without blanks at its ends; one lone character in the last column goes too."""
    trimmed = line.lstrip(" \x1a")
    return "" if len(trimmed) == 1 else trimmed.rstrip(" \x1a")


def describe_blstats(blstats: list[int]) -> str:
    """The bottom-line statistics, one `Name: value` a line."""
    b = blstats
    conditions = [words for bit, words in condition_bits() if b[25] & bit]
    return (
        f"Strength: {b[3]}/{b[2]}\nDexterity: {b[4]}\nConstitution: {b[5]}\n"
        f"Intelligence: {b[6]}\nWisdom: {b[7]}\nCharisma: {b[8]}\nDepth: {b[12]}\nGold: {b[13]}\n"
        f"HP: {b[10]}/{b[11]}\nEnergy: {b[14]}/{b[15]}\nAC: {b[16]}\nXP: {b[18]}/{b[19]}\n"
        f"Time: {b[20]}\nPosition: {b[0]}|{b[1]}\nHunger: {_word(HUNGER, b[21])}\n"
        f"Monster Level: {b[17]}\nEncumbrance: {_word(_BURDEN, b[22])}\nDungeon Number: {b[23]}\n"
        f"Level Number: {b[24]}\nScore: {b[9]}\nAlignment: {_ALIGNMENT.get(b[26], '')}\n"
        f"Condition: {' '.join(conditions) or 'None'}"
    )


def _word(words: tuple[str, ...], index: int) -> str:
    return words[index] if 0 <= index < len(words) else ""


def describe_inventory(letters: np.ndarray, strings: np.ndarray) -> str:
    """The inventory, one `letter: item` a line, up to the first empty letter."""
    codes = letters.tobytes().partition(b"\0")[0].decode("latin-1")
    width = strings.shape[1]
    raw = strings[: len(codes)].tobytes().decode("latin-1")
    return "\n".join(
        f"{letter}: {raw[i * width : (i + 1) * width].partition(chr(0))[0]}"
        for i, letter in enumerate(codes)
    )


def describe_cursor(
    glyphs: np.ndarray,
    tty_cursor: np.ndarray,
    x: int,
    y: int,
    *,
    numeric_distances: bool = False,
) -> str:
    """Where the terminal's cursor stands and what is there; empty when it is off the map.

    Only what is told from anywhere has a name here: floors, walls, doorways and traps have none.
    """
    row, column = int(tty_cursor[0]) - 1, int(tty_cursor[1])
    if not (0 <= row < ROWS and 0 <= column <= COLS):
        return ""
    # The terminal is a column wider than the map: its last shows what begins the map's next row.
    cell = row * COLS + column
    if not 0 < cell < ROWS * COLS or column - x > COLS - 1:
        return ""
    name = glyph_names().cursor[int(glyphs.reshape(-1)[cell])]
    if (column, row) == (x, y):
        return f"Yourself a {name}"
    distances, directions = _offset_tables(numeric_distances)
    at = ROWS - 1 + row - y, COLS - 1 + column - x
    words = _TILES if numeric_distances else DISTANCES
    return f"{words[distances[at]]} {DIRECTIONS[directions[at]]} {name}"


class GlyphNames(NamedTuple):
    """Tables over all glyph ids (0..MAX_GLYPH).

    Attributes:
      told: uint8 [G], one of HIDDEN, ON_LINE, ENDS_LINE, ANYWHERE.
      singular: name a glyph id.
      plural: plural form of each name.
      cursor: name a glyph id where the cursor stands on it: empty for what is told along lines only.
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
    told[nethack.MAX_GLYPH] = HIDDEN
    singular = [""] * (nethack.MAX_GLYPH + 1)
    plural: dict[str, str] = {}

    def put(glyph: int, name: str, many: str | None = None) -> None:
        singular[glyph] = name
        plural[name] = many if many is not None else pluralize(name)

    for m in range(nethack.NUMMONS):
        name = nethack.permonst(m).mname
        put(nethack.GLYPH_MON_OFF + m, name)
        put(nethack.GLYPH_PET_OFF + m, f"tame {name}")
        put(nethack.GLYPH_DETECT_OFF + m, f"detected {name}")
        put(nethack.GLYPH_RIDDEN_OFF + m, f"ridden {name}")
        put(nethack.GLYPH_BODY_OFF + m, f"{name} corpse")
        put(nethack.GLYPH_STATUE_OFF + m, f"{name} statue")
        for part, place in enumerate(_AROUND):
            put(
                nethack.GLYPH_SWALLOW_OFF + len(_AROUND) * m + part,
                f"swallow {place}",
                f"swallows {place}",
            )
    put(nethack.GLYPH_INVISIBLE, "invisible creature")
    for o in range(nethack.NUM_OBJECTS):
        put(nethack.GLYPH_OBJ_OFF + o, _object_name(nethack, nethack.objclass(o)))
    for c in range(nethack.GLYPH_EXPLODE_OFF - nethack.GLYPH_CMAP_OFF):
        glyph = nethack.GLYPH_CMAP_OFF + c
        if c < len(_SYMBOLS):
            name, told[glyph] = _SYMBOLS[c]
            put(glyph, name, f"area of {name}" if name in ("ice", "lava") else None)
        elif c < _FIRST_BEAM:
            name, told[glyph] = nethack.symdef.from_idx(c).explanation, ON_LINE
            put(glyph, "anti magic trap" if name == "anti-magic field" else name)
        else:
            (name, rest), told[glyph] = _EFFECTS[c - _FIRST_BEAM], ON_LINE
            put(glyph, name + rest, f"{name}s{rest}")
    for e in range(nethack.GLYPH_ZAP_OFF - nethack.GLYPH_EXPLODE_OFF):
        put(nethack.GLYPH_EXPLODE_OFF + e, f"explosion {_PLACES[e % nethack.MAXEXPCHARS]}")
    for beam in range(nethack.GLYPH_SWALLOW_OFF - nethack.GLYPH_ZAP_OFF):
        put(nethack.GLYPH_ZAP_OFF + beam, f"{_ZAPS[beam % len(_ZAPS)]} zap beam")
    for level, feeling in enumerate(("worry", "concern", "anxiety", "disquiet", "alarm", "dread")):
        put(nethack.GLYPH_WARNING_OFF + level, f"unknown creature causing you {feeling}")
    under = tuple(
        name if how == ANYWHERE else "" for name, how in zip(singular, told.tolist(), strict=True)
    )
    return GlyphNames(told, tuple(singular), plural, under)


# Names whose first noun takes the ending; any other name takes it at its end ("piece of cloths").
_FIRST_NOUN = re.compile(
    r"Master(?= of)|can(?= of)|worthless piece|scroll(?= labeled)|unknown creature"
)
_ALWAYS_PLURAL = ("scales", "boots", "shoes", "lenses", "bars")


def pluralize(name: str) -> str:
    """The benchmark's plural of a name, which is English by its last letters, mostly."""
    head = _FIRST_NOUN.match(name)
    if head and head.end() < len(name) and not name.endswith(("corpse", "statue")):
        return f"{head.group()}s{name[head.end() :]}"
    if not name or name.endswith(_ALWAYS_PLURAL):
        return name
    if name.endswith("f"):
        return name.rstrip("f") + "ves"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "z", "sh")) else "s")


def _object_name(nethack, kind) -> str:
    """An object's name, before its kind is identified; gems show theirs (the benchmark's slip)."""
    label = ord(kind.oc_class) if isinstance(kind.oc_class, str) else int(kind.oc_class)
    name, look = nethack.OBJ_NAME(kind), nethack.OBJ_DESCR(kind)
    if label == nethack.VENOM_CLASS:
        return f"splash of {name}"
    if label == nethack.WEAPON_CLASS or not look:
        return name
    if label == nethack.SCROLL_CLASS:
        return f"scroll labeled {look}"
    if label == nethack.GEM_CLASS:
        return name if name.startswith(("worthless", look)) else f"{look} {name}"
    if look == "Amulet of Yendor":
        return look
    kinds = {
        nethack.RING_CLASS: " ring",
        nethack.AMULET_CLASS: " amulet",
        nethack.POTION_CLASS: " potion",
        nethack.SPBOOK_CLASS: " spellbook",
        nethack.WAND_CLASS: " wand",
    }
    return look + kinds.get(label, "")


@functools.cache
def condition_bits() -> tuple[tuple[int, str], ...]:
    from nle import nethack

    return tuple((getattr(nethack, f"BL_MASK_{bit}"), words) for bit, words in _CONDITIONS)


def _listing(words: list[str]) -> str:
    """a; a and b; a, b, and c."""
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


@functools.cache
def _offset_tables(numeric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction index by offset: uint8 [41, 157], centre at [20, 78]."""
    dy, dx = np.mgrid[-(ROWS - 1) : ROWS, -(COLS - 1) : COLS]
    reach = np.maximum(np.abs(dx), np.abs(dy))
    if numeric:
        distance = (COLS - 1 - reach).astype(np.uint8)
    else:
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
def _geometry_from(x: int, y: int, numeric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction index of every cell (flat) seen from (x, y)."""
    distance, direction = _offset_tables(numeric)
    window = np.s_[ROWS - 1 - y : 2 * ROWS - 1 - y, COLS - 1 - x : 2 * COLS - 1 - x]
    return distance[window].reshape(-1).copy(), direction[window].reshape(-1).copy()


@functools.lru_cache(maxsize=ROWS * COLS)
def _rank_from(x: int, y: int, numeric: bool) -> np.ndarray:
    """The order in which cells are told, seen from (x, y): far to near, then clockwise."""
    distance, direction = _geometry_from(x, y, numeric)
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
