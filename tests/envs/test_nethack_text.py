"""Byte equality with recorded observations, and the rules those do not reach."""

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
        ("glob of gray ooze", "globs of gray ooze"),
        ("winter wolf", "winter wolves"),
        ("soldier ant", "soldier ants"),
        ("blue jelly", "blue jellies"),
        ("monkey", "monkeys"),
    ],
)
def test_plurals(one, many):
    assert nethack_text.pluralize(one) == many
