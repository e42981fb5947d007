"""The typed grid: NetHack's from glyph ids on recorded frames, Crafter's from its view."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from nle import nethack as nle_nethack

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs import nethack_grid
from automem_jax.envs.grid import Grid, Terrain, Thing
from automem_jax.envs.pool import WorkerPool

GOLDEN = Path(__file__).parent.parent / "data" / "nle_text_dev.npz"
PLAYED = 160  # frames of games played; those after them are scrambled
CMAP = nle_nethack.GLYPH_CMAP_OFF


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return {key: archive[key][:PLAYED] for key in archive.files}


# Terrain by the character the terminal shows for it, where that character has one meaning on cells
# whose glyph is a map symbol.
SHOWN = {
    "<": {Terrain.STAIRS_UP, Terrain.LADDER_UP},
    ">": {Terrain.STAIRS_DOWN, Terrain.LADDER_DOWN},
    "+": {Terrain.DOOR_CLOSED},
    "^": {Terrain.TRAP, Terrain.PORTAL},
    "_": {Terrain.ALTAR},
    "{": {Terrain.FOUNTAIN},
    "#": {Terrain.CORRIDOR, Terrain.TREE, Terrain.SINK, Terrain.BARS, Terrain.BRIDGE_RAISED},
    "}": {Terrain.WATER, Terrain.LAVA},
    "-": {Terrain.WALL, Terrain.DOOR_OPEN, Terrain.GRAVE},
    "|": {Terrain.WALL, Terrain.DOOR_OPEN, Terrain.GRAVE},
    ".": {Terrain.FLOOR, Terrain.DOORWAY, Terrain.ICE, Terrain.BRIDGE, Terrain.DOOR_OPEN},
    " ": {Terrain.UNKNOWN},
}


def test_terrain_of_every_recorded_frame_is_what_the_terminal_shows(golden):
    """Checked cell by cell; menus and texts over the map are left out by their own frames."""
    cells = wrong = frames = 0
    for glyphs, stats, screen, message in zip(
        golden["glyphs"],
        golden["blstats"],
        golden["tty_chars"],
        golden["text_message"],
        strict=True,
    ):
        if "(end)" in str(message) or "\n" in str(message) or "--More--" in str(message):
            continue
        frames += 1
        grid = nethack_grid.make_grid(glyphs, stats.tolist(), False)
        assert (grid.x, grid.y) == (stats[0], stats[1])
        for y, x in zip(*np.nonzero(grid.terrain != Terrain.HIDDEN), strict=True):
            allowed = SHOWN.get(chr(screen[y + 1, x]))
            cells += 1
            wrong += allowed is None or Terrain(int(grid.terrain[y, x])) not in allowed
    assert frames > 100 and cells > 100_000
    assert wrong == 0


def test_player_cell_is_never_a_thing_and_every_hidden_cell_is_one(golden):
    for glyphs, stats in zip(golden["glyphs"], golden["blstats"], strict=True):
        grid = nethack_grid.make_grid(glyphs, stats.tolist(), False)
        hidden = {(int(x), int(y)) for y, x in np.argwhere(grid.terrain == Terrain.HIDDEN)}
        on_ground = {(t.x, t.y) for t in grid.things if t.kind not in ("trap", "cloud")}
        assert hidden - {(grid.x, grid.y)} == on_ground


def _frame(*things):
    glyphs = np.full((21, 79), CMAP + 19, np.int16)
    for x, y, glyph in things:
        glyphs[y, x] = glyph
    return glyphs


def _stats(x=30, y=10, dungeon=0, depth=1):
    stats = [0] * 27
    stats[0], stats[1], stats[12], stats[23] = x, y, depth, dungeon
    return stats


def _object(name):
    return next(
        nle_nethack.GLYPH_OBJ_OFF + o
        for o in range(nle_nethack.NUM_OBJECTS)
        if nle_nethack.OBJ_NAME(nle_nethack.objclass(o)) == name
    )


def _monster(name):
    return next(m for m in range(nle_nethack.NUMMONS) if nle_nethack.permonst(m).mname == name)


def test_kinds_of_things():
    newt = _monster("newt")
    frame = _frame(
        (1, 1, newt),
        (2, 1, nle_nethack.GLYPH_PET_OFF + newt),
        (3, 1, nle_nethack.GLYPH_INVISIBLE),
        (4, 1, nle_nethack.GLYPH_STATUE_OFF + newt),
        (5, 1, nle_nethack.GLYPH_BODY_OFF + newt),
        (6, 1, _object("boulder")),
        (7, 1, _object("dagger")),
        (8, 1, CMAP + 46),
        (9, 1, nle_nethack.GLYPH_WARNING_OFF + 2),
        (30, 10, _monster("human")),
    )
    grid = nethack_grid.make_grid(frame, _stats(), False)
    assert [(t.kind, t.name) for t in grid.things] == [
        ("monster", "newt"),
        ("pet", "newt"),
        ("unseen", "invisible creature"),
        ("statue", "newt statue"),
        ("object", "newt corpse"),
        ("boulder", "boulder"),
        ("object", "dagger"),
        ("trap", "bear trap"),
        ("unseen", "unknown creature causing you anxiety"),
    ]
    assert grid.terrain[1, 8] == Terrain.TRAP and grid.terrain[1, 7] == Terrain.HIDDEN


def test_hallucination_leaves_no_names_and_no_boulders():
    frame = _frame((1, 1, _monster("newt")), (6, 1, _object("boulder")), (8, 1, CMAP + 46))
    grid = nethack_grid.make_grid(frame, _stats(), True)
    assert [(t.kind, t.name) for t in grid.things] == [
        ("monster", "hallucination"),
        ("object", "hallucination"),
        ("trap", "bear trap"),
    ]


def test_inside_a_creature_there_is_one_thing():
    first = nle_nethack.GLYPH_SWALLOW_OFF + 8 * _monster("ochre jelly")
    frame = np.full((21, 79), CMAP, np.int16)
    frame[9, 29:32] = first, first + 1, first + 2
    grid = nethack_grid.make_grid(frame, _stats(), False)
    assert grid.things == (Thing("engulfer", "ochre jelly", 30, 10),)


def test_every_glyph_id_and_one_that_is_none():
    glyphs = np.full(21 * 79 * 4, nle_nethack.NO_GLYPH, np.int16)
    glyphs[: nle_nethack.MAX_GLYPH] = np.arange(nle_nethack.MAX_GLYPH)
    for part in glyphs.reshape(4, 21, 79):
        grid = nethack_grid.make_grid(part, _stats(0, 0), False)
        assert grid.terrain.max() < len(Terrain)
        assert all(thing.name for thing in grid.things)


def test_branches_have_levels_of_their_own():
    levels = [
        nethack_grid.make_grid(_frame(), _stats(dungeon=d, depth=3), False).level
        for d in (0, 2, 4, 9)
    ]
    assert levels == ["3", "mines3", "sokoban3", "dungeon9-3"]


def test_grids_compare_hash_and_tell_what_they_hold():
    one, same, other = (
        Grid(np.full((3, 3), kind, np.uint8), 1, 1, (Thing("object", "gem", 0, 0),))
        for kind in (2, 2, 3)
    )
    assert one == same and hash(one) == hash(same) and repr(one) == repr(same)
    assert one != other and repr(one) != repr(other) and one != "grid"
    assert pickle.loads(pickle.dumps(one)) == one


NAMES = {c: c for c in "abcdyq"} | {
    "y": "northwest",
    "n": "n",
    "h": "west",
    "k": "north",
    "\r": "more",
}


@pytest.mark.parametrize(
    ("prompt", "message", "text", "options"),
    [
        ("", "It is hot here.", "", ()),
        ("choice", "Hm.\nReally attack? [yn] (n)", "Really attack? [yn] (n)", ("northwest", "n")),
        ("choice", "Eat what? [a-cz or ?*]", "Eat what? [a-cz or ?*]", ("a", "b", "c")),
        ("choice", "In what direction?", "In what direction?", ("north", "west", "northwest")),
        ("choice", "Really?", "Really?", ()),
        ("choice", "", "", ()),
        ("text", "Call it:", "Call it:", ()),
        ("more", "Weapons\na - a knife\nd + a dart\n(end)", None, ("a", "d")),
        ("more", "You die...", None, ("more",)),
    ],
)
def test_questions(prompt, message, text, options):
    asked = nethack_grid.question(prompt, message, NAMES)
    assert asked["kind"] == prompt and asked["options"] == options
    assert asked["text"] == (message if text is None else text)


def test_percepts_carry_grids_through_worker_processes():
    config = EnvConfig(name="minihack", task="MiniHack-Corridor-R3-v0", slots=1, max_steps=20)
    pool = WorkerPool(EnvConfig(**(vars(config) | {"workers": 1})))
    here = envs.make(config)
    try:
        both = [env.reset([0], [7])[0] for env in (here, pool)]
        for action in ("east", "kick", "east", "search"):
            assert both[0].fields["grid"] == both[1].fields["grid"]
            assert both[0].fields["items"] == both[1].fields["items"] != ()
            assert both[0].fields["question"] == both[1].fields["question"]
            assert both[0].fields["conditions"] == ()
            assert both[0].fields["hunger_word"] == "Not Hungry"
            both = [env.step({0: action})[0] for env in (here, pool)]
            if action == "kick":
                assert both[0].fields["question"]["kind"] == "choice"
                assert "northeast" in both[0].fields["question"]["options"]
    finally:
        here.close()
        pool.close()


def test_the_crafter_view_as_a_grid():
    env = envs.make(EnvConfig(name="craftax_classic", slots=4, max_steps=0))
    for percept in env.reset([0, 1, 2, 3], [5, 6, 7, 8]).values():
        view, grid = percept.fields["view"], percept.fields["grid"]
        assert (grid.x, grid.y, grid.terrain.shape) == (4, 3, (7, 9))
        assert grid.relative and not grid.diagonals
        at = {(t.x, t.y): t.name for t in grid.things}
        for x in range(9):
            for y in range(7):
                ground = Terrain(int(grid.terrain[y, x]))
                if view[x][y] is None:
                    assert ground == Terrain.OUTSIDE
                elif ground == Terrain.HIDDEN:
                    assert at.get((x, y), "player") == view[x][y]
                else:
                    assert ground.word == view[x][y]
    env.close()
