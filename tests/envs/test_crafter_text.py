"""Crafter's words: byte equality with recorded observations, and the options."""

import json
from pathlib import Path

import pytest

from automem_jax.envs.crafter_text import describe

FRAMES = json.loads(
    (Path(__file__).parent.parent / "data" / "crafter_text_dev.json").read_text("utf-8")
)


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
    long, _ = describe(view, (-1, 0), FRAMES[0]["inventory"], False, False)
    assert long == "You see:\n- grass 1 step to your north"


def test_skip_every_and_edge_options():
    view = _view(fill="water", _3_3="tree", _0_0="tree", _5_3=None)
    inventory = FRAMES[0]["inventory"]
    long, _ = describe(view, (-1, 0), inventory, False, False, skip_items=("water",))
    assert long.startswith("You see:\n- tree 1 step to your west\n\nYou face tree")
    long, _ = describe(
        view, (-1, 0), inventory, False, False, skip_items=("water",), unique_items=False
    )
    assert long.count("- tree") == 2
    long, _ = describe(
        view, (-1, 0), inventory, False, False, edge_only_items=("water",), unique_items=False
    )
    # Cells beside the two trees and the player; those inside the lake are left out.
    assert long.count("- water") == 7
