"""What counts as an effect of an action: typed comparison on made and played percepts."""

import pytest
from drawn_grids import seen, view

from automem_jax import envs
from automem_jax.agent.effects import ObsDiff
from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept


def effect(*percepts):
    observer = ObsDiff()
    for percept in percepts:
        observer.update(percept)
    told = observer.outputs()
    return told["changed"], told["effect"]


ROOM = (" .....", " .j@..", " ..f..")
LATER = (" .f...", " ..@j.", " .....")  # the same room: creatures have moved


def test_a_fruitless_search_changes_nothing_whatever_the_clock_and_creatures_do():
    observer = ObsDiff()
    observer.update(seen(*ROOM, turn=1, hp=9))
    assert observer.outputs()["changed"]
    for turn, rows in ((2, LATER), (3, ROOM)):
        observer.update(seen(*rows, turn=turn, hp=9, action="search"))
        told = observer.outputs()
        assert (told["changed"], told["effect"]) == (False, "nothing changed")
    assert told["run_length"] == 3


def test_bites_are_not_the_players_doing():
    before = seen(*ROOM, hp=9)
    after = seen(*ROOM, hp=6, action="search", message="The jackal bites!  The jackal misses!")
    changed, words = effect(before, after)
    assert not changed and "hp -3" in words and "bites" in words


@pytest.mark.parametrize(
    "message",
    [
        "It's a wall.",
        "You see no objects here to pick up.",
        "There is nothing here to pick up.",
        "This door is locked.",
        "You stop.  Your kitten is in the way!",
        "Never mind.",
        "You hear the footsteps of a guard on patrol.",
        "You have already gone as far south as possible.",
        "Your kitten eats a corpse.",
    ],
)
def test_messages_of_no_effect(message):
    assert not effect(seen(*ROOM), seen(*ROOM, action="west", message=message))[0]


@pytest.mark.parametrize("message", ["You kill the jackal!", "The door opens.", "You feel wise."])
def test_messages_of_an_effect_count_once(message):
    first = seen(*ROOM, action="west", message=message)
    assert effect(seen(*ROOM), first) == (True, message)
    assert not effect(seen(*ROOM), first, first)[0]


def test_nethack_effects_in_words():
    assert effect(seen(" @.."), seen(" .@.", action="east")) == (True, "moved east")
    assert effect(seen(" @......"), seen(" .....@.", action="far east")) == (True, "moved 5 east")
    assert effect(seen(" @"), seen(" @", action="down", level="2")) == (True, "came to level 2")
    opened = effect(seen(" .@+"), seen(" .@/", action="east"))
    assert opened == (True, "door closed became door open 1 east")
    found = effect(seen(" #@."), seen(" +@.", action="search"))
    assert found == (True, "wall became door closed 1 west")
    assert effect(seen(" ,@ "), seen(" ,@,", action="search")) == (True, "1 new cell seen")
    pushed = effect(seen(" @0.."), seen(" @.0.", action="force"))
    assert pushed[0] and "boulder" in pushed[1]
    taken = effect(
        seen(" @.", items=(("a", "a dagger"),)),
        seen(" @.", items=(("a", "a dagger"), ("b", "an apple")), action="pickup"),
    )
    assert taken == (True, "now b - an apple")
    asked = effect(
        seen(" @.", question={"kind": "", "text": "", "options": ()}),
        seen(
            " @.",
            action="eat",
            prompt="choice",
            question={"kind": "choice", "text": "Eat what? [b]", "options": ("b",)},
        ),
    )
    assert asked == (True, "asked: Eat what? [b]")


def test_what_creatures_carry_off_or_uncover_is_not_the_players_doing():
    assert not effect(seen(" @..*j"), seen(" @..j.", action="search"))[0]
    assert not effect(seen(" @..j."), seen(" @..*j", action="search"))[0]
    assert effect(seen(" @...."), seen(" @..*.", action="throw"))[0]


def test_light_that_comes_and_goes_counts_once():
    dark, lit = seen(" @.  "), seen(" @...", action="search")
    assert effect(dark, lit)[0]
    assert not effect(dark, lit, dark, lit)[0]


def crafted(*changes, **fields):
    base = {"facing": (0, 1), "inventory": {"health": 9, "food": 9, "wood": 0}, "daylight": 1.0}
    base |= {"health": 9, "food": 9, "drink": 9, "energy": 9, "sleeping": False}
    return seen(*view(*changes), relative=True, **(base | fields))


def test_a_walking_cow_daylight_and_vitals_do_not_hide_a_no_op():
    after = crafted(
        (6, 2, "Z"),
        action="Do",
        daylight=0.4,
        health=7,
        food=8,
        drink=7,
        energy=8,
        inventory={"health": 7, "food": 8, "wood": 0},
    )
    assert effect(crafted((6, 3, "Z")), after) == (False, "nothing changed (health -2)")


def test_crafter_effects_in_words():
    start = crafted((4, 4, "T"))
    wood = {"health": 9, "food": 9, "wood": 1}
    assert effect(start, crafted((4, 4, "T"), action="Do", inventory=wood)) == (True, "wood +1")
    assert effect(crafted(), crafted(facing=(0, -1), action="Move North")) == (True, "moved north")
    turned = effect(crafted((5, 3, "T")), crafted((5, 3, "T"), facing=(1, 0), action="Move East"))
    assert turned == (True, "turned east")
    still = crafted((4, 4, "T"), action="Move South")
    assert effect(start, still) == (False, "nothing changed")
    mined = effect(crafted((4, 4, "~")), crafted((4, 4, "g"), action="Do"))
    assert mined == (True, "water became grass")
    assert effect(crafted(food=5), crafted(food=9, action="Do")) == (True, "food +4")
    assert effect(crafted(), crafted(sleeping=True, action="Sleep")) == (True, "fell asleep")
    assert effect(crafted((4, 4, "Z")), crafted((4, 4, "Z"), action="Do")) == (
        True,
        "struck zombie",
    )
    new = crafted(action="Do", achievements=("collect_wood",))
    assert effect(crafted(achievements=()), new) == (True, "achieved collect_wood")


def test_paths_and_percepts_without_a_grid_compare_text_without_clocks():
    observer = ObsDiff()
    for turn in (1, 2, 3):
        observer.update(Percept(f"all quiet T:{turn}", "", {}, (), step=turn))
    assert observer.outputs() == {
        "changed": False,
        "run_length": 3,
        "effect": "nothing changed",
    }
    typed = ObsDiff(paths=("percept.long_text",))
    first, moved = seen(" @.."), seen(" .@.", action="east")
    typed.update(first)
    typed.update(moved)
    assert not typed.outputs()["changed"]  # the texts, both empty, are what was asked for


def test_played_searches_and_bumps_are_no_effect():
    env = envs.make(EnvConfig(name="minihack", task="MiniHack-Corridor-R3-v0", max_steps=100))
    observer, percept = ObsDiff(), env.reset([0], [5])[0]
    observer.update(percept)
    for action, changed in (
        ("search", False),
        ("east", True),
        ("search", False),
        ("west", True),
        ("kick", True),
    ):
        percept = env.step({0: action})[0]
        observer.update(percept)
        assert observer.outputs()["changed"] is changed, (action, observer.outputs())
    env.close()
