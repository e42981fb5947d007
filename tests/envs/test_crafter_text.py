"""Crafter's words: byte equality with recorded observations, the options, and what always holds."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automem_jax.envs.crafter_text import describe

FRAMES = json.loads(
    (Path(__file__).parent.parent / "data" / "crafter_text_dev.json").read_text("utf-8")
)
INVENTORY = FRAMES[0]["inventory"]


def _arguments(frame):
    keys = ("view_x_then_y", "facing_xy", "inventory", "sleeping", "dead")
    return tuple(frame[key] for key in keys)


@pytest.mark.parametrize("precise", [False, True])
def test_every_golden_frame_is_byte_equal(precise):
    assert len(FRAMES) == 80
    expected = "long_term_context_precise" if precise else "long_term_context"
    for frame in FRAMES:
        long, short = describe(*_arguments(frame), precise_location=precise)
        assert long == frame[expected]
        assert short == frame["short_term_context"]


def _view(fill="grass", **cells):
    view = [[fill] * 7 for _ in range(9)]
    view[4][3] = "player"
    for place, name in cells.items():
        x, y = place[1:].split("_")
        view[int(x)][int(y)] = name
    return view


def test_outside_the_world_nothing_is_told():
    view = _view()
    for x in range(4):
        view[x] = [None] * 7
    long, _ = describe(view, (-1, 0), INVENTORY, False, False)
    assert long == "You see:\n- grass 1 step to your north\n\nYou face nothing at your front."
    cut = _view()[:5]  # as a view cut off at the east edge comes
    long, _ = describe(cut, (1, 0), INVENTORY, False, False)
    assert long == "You see:\n- grass 1 step to your west\n\nYou face nothing at your front."
    long, _ = describe([["player"] * 7] * 9, (0, 1), INVENTORY, False, False)
    assert long == "You see nothing away from you.\n\nYou face player at your front."


@pytest.mark.parametrize(
    ("sleeping", "dead", "start"),
    [
        (False, False, "You see:\n- grass 1 step to your west\n\nYou face"),
        (False, True, "You died.\n\n\n\nYou see:"),
        (True, True, "You are sleeping, and will not be able take actions until energy is full."),
    ],
)
def test_state_comes_first(sleeping, dead, start):
    long, _ = describe(_view(), (0, 1), INVENTORY, sleeping, dead)
    assert long.startswith(start)
    assert ("You died." in long) == (dead and not sleeping)


def test_skip_every_and_edge_options():
    view = _view(fill="water", _3_3="tree", _0_0="tree", _5_3=None)
    long, _ = describe(view, (-1, 0), INVENTORY, False, False, skip_items=("water",))
    assert long.startswith("You see:\n- tree 1 step to your west\n\nYou face tree")
    long, _ = describe(view, (0, 1), INVENTORY, False, False, skip_items=("water",))
    assert long.endswith("You face nothing at your front.")
    options = {"unique_items": False, "precise_location": True}
    long, _ = describe(view, (-1, 0), INVENTORY, False, False, skip_items=("water",), **options)
    assert "- tree 3 steps north and 4 steps west\n- tree 1 step west\n" in long
    long, _ = describe(view, (0, 1), INVENTORY, False, False, edge_only_items=["water"], **options)
    # Cells beside the two trees and the player; those inside the lake are left out.
    assert long.count("- water") == 7
    assert long.endswith("You face water at your front.")


def test_only_what_is_carried_is_told_in_its_order():
    carried = INVENTORY | {"wood": 3, "iron_sword": 1, "sapling": 9, "health": 0}
    short = describe(_view(), (0, 1), carried, False, False)[1]
    assert short.startswith("Your status:\n- health: 0/9\n- food: 9/9\n")
    assert short.endswith("\n\nYour inventory:\n- sapling: 9\n- wood: 3\n- iron_sword: 1")


NAMES = st.sampled_from([None, "grass", "water", "tree", "zombie", "arrow", "iron"])
VIEWS = st.lists(st.lists(NAMES, min_size=7, max_size=7), min_size=9, max_size=9)
LINE = re.compile(r"^- (\w+) (\d+) steps? to your ([a-z-]+)$")
PRECISE = re.compile(r"^- (\w+) (?:(\d+) steps? (north|south))?(?: and )?(?:(\d+) steps? (\w+))?$")


@settings(max_examples=60, deadline=None)
@given(VIEWS, st.sampled_from([(0, 1), (0, -1), (1, 0), (-1, 0)]))
def test_the_nearest_of_each_thing_is_told_once(view, facing):
    view[4][3] = "player"
    cells = [(x, y) for x in range(9) for y in range(7) if view[x][y] not in (None, "player")]
    first_seen = list(dict.fromkeys(view[x][y] for x, y in cells))
    long, _ = describe(view, facing, INVENTORY, False, False)
    *told, front = [line for line in long.splitlines() if line]
    assert front == f"You face {view[4 + facing[0]][3 + facing[1]] or 'nothing'} at your front."
    seen = [LINE.match(line).groups() for line in told[1:]]
    assert [name for name, _, _ in seen] == first_seen
    for name, steps, direction in seen:
        places = [(x - 4, y - 3) for x, y in cells if view[x][y] == name]
        assert int(steps) == min(abs(dx) + abs(dy) for dx, dy in places)
        assert any(
            abs(dx) + abs(dy) == int(steps)
            and ("north" in direction) == (dy < 0)
            and ("south" in direction) == (dy > 0)
            and ("west" in direction) == (dx < 0)
            and ("east" in direction) == (dx > 0)
            for dx, dy in places
        )
    # The precise wording tells the same cells.
    long, _ = describe(view, facing, INVENTORY, False, False, precise_location=True)
    for (name, steps, direction), line in zip(seen, long.splitlines()[1:], strict=False):
        same, north, up, east, side = PRECISE.match(line).groups()
        assert (same, int(steps)) == (name, int(north or 0) + int(east or 0))
        assert direction == "-".join(word for word in (up, side) if word)
    # All of them, in scan order, hold the nearest too.
    every = describe(view, facing, INVENTORY, False, False, unique_items=False)[0].splitlines()
    assert len([line for line in every if line.startswith("- ")]) == len(cells)
    assert set(told[1:]) <= set(every)
