"""Byte equality with recorded observations, and the rules those do not reach.

The rules and the digest of all names were compared with the compiled wrapper that the benchmark
uses, over every glyph id and tens of thousands of random frames.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from nle import nethack as nle_nethack

from automem_jax.envs import nethack_text

GOLDEN = Path(__file__).parent.parent / "data" / "nle_text_dev.npz"
INPUTS = ("glyphs", "blstats", "tty_chars", "tty_cursor", "inv_letters", "inv_strs")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.mark.parametrize("field", nethack_text.NetHackText._fields)
def test_every_golden_frame_is_byte_equal(golden, field):
    wrong = []
    for i in range(len(golden["glyphs"])):
        text = nethack_text.describe({key: golden[key][i] for key in INPUTS})
        if getattr(text, field) != str(golden[f"text_{field}"][i]):
            wrong.append(i)
    assert len(golden["glyphs"]) == 184
    assert wrong == []


def test_every_glyph_id_has_a_name():
    names = nethack_text.glyph_names()
    assert len(names.singular) == nle_nethack.MAX_GLYPH + 1
    unnamed = [
        g
        for g in range(nle_nethack.MAX_GLYPH)
        if names.told[g] != nethack_text.HIDDEN and not names.singular[g]
    ]
    assert unnamed == []
    assert set(names.singular) <= set(names.plural)


def test_the_whole_table_of_names_is_the_checked_one():
    names = nethack_text.glyph_names()
    table = "\n".join(
        f"{glyph}|{name}|{names.plural[name]}|{told}|{cursor}"
        for glyph, (name, told, cursor) in enumerate(
            zip(names.singular, names.told.tolist(), names.cursor, strict=True)
        )
    )
    assert hashlib.sha256(table.encode()).hexdigest() == (
        "a04ae56227c078b463566198d9d162e8d6acff43620bb0ab1ed2c2be21bf6e14"
    )


@pytest.mark.parametrize(
    ("offset", "index", "one", "many"),
    [
        ("GLYPH_CMAP_OFF", 8, "t up wall", None),
        ("GLYPH_CMAP_OFF", 10, "t west wall", None),
        ("GLYPH_CMAP_OFF", 27, "alter", "alters"),
        ("GLYPH_CMAP_OFF", 32, "pool", "pools"),
        ("GLYPH_CMAP_OFF", 33, "ice", "area of ice"),
        ("GLYPH_CMAP_OFF", 35, "vertical lowered drawbridge", None),
        ("GLYPH_CMAP_OFF", 62, "anti magic trap", "anti magic traps"),
        ("GLYPH_CMAP_OFF", 71, "boom left", "booms left"),
        ("GLYPH_SWALLOW_OFF", 0, "swallow top left", "swallows top left"),
        ("GLYPH_EXPLODE_OFF", 4, "explosion middle center", "explosion middle centers"),
        ("GLYPH_ZAP_OFF", 1, "vertical zap beam", "vertical zap beams"),
        (
            "GLYPH_WARNING_OFF",
            3,
            "unknown creature causing you disquiet",
            "unknown creatures causing you disquiet",
        ),
        ("GLYPH_OBJ_OFF", 339, "scroll labeled unlabeled", "scrolls labeled unlabeled"),
        ("GLYPH_OBJ_OFF", 412, "white diamond", "white diamonds"),
        ("GLYPH_OBJ_OFF", 451, "splash of blinding venom", "splash of blinding venoms"),
    ],
)
def test_names_that_recorded_frames_do_not_reach(offset, index, one, many):
    names = nethack_text.glyph_names()
    assert names.singular[getattr(nle_nethack, offset) + index] == one
    assert many is None or names.plural[one] == many


def _floor(*things: tuple[int, int, int]) -> np.ndarray:
    floor = nle_nethack.GLYPH_CMAP_OFF + 19
    glyphs = np.full((nethack_text.ROWS, nethack_text.COLS), floor, np.int16)
    for x, y, glyph in things:
        glyphs[y, x] = glyph
    return glyphs


def test_distance_words_and_direction_octants():
    newt = next(m for m in range(nle_nethack.NUMMONS) if nle_nethack.permonst(m).mname == "newt")
    told = {
        (1, 0): "newt adjacent east",
        (2, 1): "newt very near eastsoutheast",
        (5, 5): "newt near southeast",
        (19, 1): "newt far eastsoutheast",
        (20, 0): "newt very far east",
        (-1, -2): "newt very near northnorthwest",
        (-3, 1): "newt near westsouthwest",
    }
    for (dx, dy), words in told.items():
        assert nethack_text.describe_glyphs(_floor((30 + dx, 10 + dy, newt)), 30, 10) == words


def test_lines_end_at_walls_and_after_nine_cells():
    wall = nle_nethack.GLYPH_CMAP_OFF + 1
    doorway = nle_nethack.GLYPH_CMAP_OFF + 12
    assert nethack_text.describe_glyphs(_floor((39, 10, wall)), 30, 10) == "vertical wall far east"
    assert nethack_text.describe_glyphs(_floor((40, 10, wall)), 30, 10) == ""
    behind = _floor((33, 10, wall), (34, 10, doorway), (28, 11, wall))
    assert nethack_text.describe_glyphs(behind, 30, 10) == "vertical wall near east"


def test_two_of_a_kind_in_one_direction_are_a_plural():
    boulder = next(
        nle_nethack.GLYPH_OBJ_OFF + o
        for o in range(nle_nethack.NUM_OBJECTS)
        if nle_nethack.OBJ_NAME(nle_nethack.objclass(o)) == "boulder"
    )
    frame = _floor((24, 9, boulder), (22, 6, boulder), (30, 13, boulder))
    assert (
        nethack_text.describe_glyphs(frame, 30, 10)
        == "boulders far westnorthwest\nboulder near south"
    )


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("newt", "newts"),
        ("jackal corpse", "jackal corpses"),
        ("scroll labeled READ ME", "scrolls labeled READ ME"),
        ("glob of gray ooze", "glob of gray oozes"),
        ("Master of Thieves", "Masters of Thieves"),
        ("tame Master of Thieves", "tame Master of Thieveses"),
        ("Master of Thieves statue", "Master of Thieves statues"),
        ("worthless piece of red glass", "worthless pieces of red glass"),
        ("piece of cloth", "piece of cloths"),
        ("quarterstaff", "quarterstaves"),
        ("old gloves", "old gloveses"),
        ("combat boots", "combat boots"),
        ("caveman", "cavemans"),
        ("master lich", "master lichs"),
        ("jellyfish", "jellyfishes"),
        ("knife", "knifes"),
        ("winter wolf", "winter wolves"),
        ("soldier ant", "soldier ants"),
        ("blue jelly", "blue jellies"),
        ("monkey", "monkeys"),
    ],
)
def test_plurals(one, many):
    assert nethack_text.pluralize(one) == many


def test_one_pair_and_many_are_told_as_the_benchmark_mixes_them_up():
    boots = next(
        g for g, name in enumerate(nethack_text.glyph_names().singular) if name == "combat boots"
    )
    frame = _floor((33, 10, boots), (33, 8, boots), (34, 8, boots))
    assert nethack_text.describe_glyphs(frame, 30, 10) == "\n".join(
        ["combat boots near eastnortheast"] * 2
    )


def test_numeric_distances():
    frame = _floor((31, 10, 12), (37, 10, 12), (37, 9, 12), (36, 10, 12))
    assert nethack_text.describe_glyphs(frame, 30, 10, numeric_distances=True) == (
        "jackal 7 tiles eastnortheast and east\njackal 6 tiles east\njackal 1 tile east"
    )
    at = np.array([11, 37])
    assert nethack_text.describe_cursor(frame, at, 30, 10, numeric_distances=True) == (
        "7 tiles east jackal"
    )


def test_cursor_names_only_what_is_seen_from_anywhere():
    wall = nle_nethack.GLYPH_CMAP_OFF + 1
    frame = _floor((33, 10, wall), (33, 11, 12), (0, 11, 12))

    def cursor(row, column, x=30, y=10):
        return nethack_text.describe_cursor(frame, np.array([row, column]), x, y)

    assert cursor(12, 33) == "near eastsoutheast jackal"
    assert cursor(11, 33) == "near east "
    assert cursor(11, 30) == "Yourself a "
    assert cursor(12, 33, 33, 11) == "Yourself a jackal"
    assert cursor(0, 40) == cursor(22, 40) == cursor(1, 0) == cursor(21, 79) == ""
    # The terminal's last column shows what begins the map's next row.
    assert cursor(11, 79) == "very far east jackal"


def _screen(*lines: tuple[int, int, str]) -> np.ndarray:
    chars = np.full((24, 80), 32, np.uint8)
    for row, column, words in lines:
        chars[row, column : column + len(words)] = np.frombuffer(words.encode(), np.uint8)
    return chars


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([(0, 0, "Hello.  ")], "Hello."),
        ([(0, 0, "a"), (1, 0, "b")], "a"),
        ([(0, 0, "Hello.--More--"), (1, 0, "below")], "Hello.--More--"),
        (
            [(0, 30, "Weapons"), (1, 20, "map       a - a sword"), (3, 30, "(end)"), (5, 0, "|.|")],
            "Weapons\na - a sword\n(end)",
        ),
        ([(0, 9, "Coins"), (1, 9, "b - gold"), (2, 9, "(1 of 2)")], "Coins\nb - gold\n(1 of 2)"),
        ([(0, 0, "a tale of two"), (1, 0, "x")], "a tale of two"),
        ([(0, 5, "(1 of 12)"), (1, 5, "b --More--")], "(1 of 12)\nb --More--"),
        ([(1, 20, "There"), (2, 4, "--More--")], "There\n--More--"),
        ([(2, 20, "There"), (3, 4, "--More--")], ""),
        ([(0, 79, "x")], ""),
    ],
)
def test_messages_menus_and_pages(lines, message):
    assert nethack_text.describe_message(_screen(*lines)) == message


def test_statistics_outside_the_known_words_are_left_empty():
    stats = [0] * 27
    stats[21], stats[22], stats[26] = 9, 6, -128
    text = nethack_text.describe_blstats(stats)
    assert "Hunger: \n" in text and "Encumbrance: \n" in text and "Alignment: None\n" in text
