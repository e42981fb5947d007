"""Repairs: two-step commands and headings, in games with eight directions and with four."""

import pytest

from automem_jax.agent.actions import repair
from automem_jax.agent.compass import OFFSETS
from automem_jax.agent.template import ActionsSpec, from_data, load_template, to_data
from automem_jax.agent.validate import validate

NETHACK = (*OFFSETS, *(f"far {word}" for word in OFFSETS), "up", "down", "search", "open", "kick")
BOXOBAN = ("north", "east", "south", "west")
CRAFTER = ("Noop", "Move West", "Move East", "Move North", "Move South", "Do", "Place Table")
ALL = ActionsSpec(
    aliases={"interact": "Do"},
    repairs=(
        "casefold",
        "strip_punctuation",
        "alias",
        "strip_prefix",
        "nearest_prefix",
        "two_step",
        "diagonal",
    ),
)


def only(*kinds):
    return ActionsSpec(repairs=("casefold", *kinds), aliases={"interact": "Do"})


@pytest.mark.parametrize(
    "written,wanted",
    {
        "move east and do": "Move East",
        "Move North, then Do": "Move North",
        "first move west; do": "Move West",
        "fly, then do": "Do",
        "do->noop": "Do",
        "Move East and then Place Table": "Move East",
        "fly then dance": None,
        "Do": "Do",
        "band": None,
    }.items(),
)
def test_two_step_takes_the_first_legal_part(written, wanted):
    assert repair(written, CRAFTER, only("two_step")) == wanted


def test_two_step_parts_are_repaired_like_the_whole():
    assert repair("Interact! Then sleep", CRAFTER, only("two_step")) is None
    assert repair("'Interact', then sleep", CRAFTER, ALL) == "Do"
    assert repair("go to the north, kick the door", NETHACK, ALL) == "north"


@pytest.mark.parametrize(
    "written,nethack,boxoban,crafter",
    [
        ("NE", "northeast", "north", "Move North"),
        ("north-east", "northeast", "north", "Move North"),
        ("south east", "southeast", "south", "Move South"),
        ("Move Northeast", "northeast", "north", "Move North"),
        ("east-southeast", "southeast", "east", "Move East"),
        ("NNW", "northwest", "north", "Move North"),
        ("northwards", "north", "north", "Move North"),
        ("up left", "northwest", "north", "Move North"),
        ("go diagonally down-right", "southeast", "south", "Move South"),
        ("far southwest", "far southwest", "south", "Move South"),
        ("run south-west", "far southwest", "south", "Move South"),
        ("look north for water", None, None, None),
        ("north south", None, None, None),
        ("up", "up", None, None),
        ("snow", None, None, None),
        ("", None, None, None),
    ],
)
def test_diagonal_takes_the_nearest_legal_heading(written, nethack, boxoban, crafter):
    found = [repair(written, legal, only("diagonal")) for legal in (NETHACK, BOXOBAN, CRAFTER)]
    assert found == [nethack, boxoban, crafter]


def test_a_heading_is_no_prefix():
    assert repair("north east", NETHACK, ALL) == "northeast"
    assert repair("move north-east, then search", NETHACK, ALL) == "northeast"
    assert repair("north because of lava", NETHACK, ALL) == "north"


def test_a_cut_map_without_the_direction_gives_nothing():
    assert repair("northeast", ("south", "wait"), only("diagonal")) is None


def test_repairs_never_raise_and_end_in_a_legal_name():
    hostile = ["then" * 999, "north " * 999, "->" * 500, "\x00", "{north}", "n" * 9999, "and and"]
    for written in hostile:
        assert repair(written, NETHACK, ALL) in (None, *NETHACK)


def test_unknown_repairs_are_named():
    data = to_data(load_template("memento_v0"))
    data["actions"]["repairs"] = ["casefold", "diagnal"]
    (problem,) = validate(from_data(data))
    assert problem.place == "actions.repairs" and "'diagonal'" in problem.remedy
    data["actions"]["repairs"] = list(ALL.repairs)
    assert validate(from_data(data)) == []
