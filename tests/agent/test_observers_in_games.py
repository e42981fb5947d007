"""The observers of status, belongings, prompts and actions, and guards on them, in the real games."""

import dataclasses

import pytest

from automem_jax import envs
from automem_jax.agent.guards import objection
from automem_jax.agent.observers import Scope
from automem_jax.agent.template import GuardSpec, ObserverSpec
from automem_jax.config import EnvConfig


class Player:
    """One episode, its scope, and what guards say."""

    def __init__(self, env, seed, specs):
        self.env = env
        self.scope = Scope({name: ObserverSpec(*spec) for name, spec in specs.items()})
        self.percept = env.reset([0], [seed])[0]
        self.scope.update(self.percept)

    def act(self, *actions):
        for action in actions:
            self.percept = self.env.step({0: action})[0]
            self.scope.update(self.percept)
        return self

    def get(self, *paths):
        return tuple(self.scope.resolve(path) for path in paths)

    def objection(self, kind, action, **params):
        return objection(
            [GuardSpec(kind, params)],
            action,
            action,
            self.percept.actions,
            self.percept.action,
            self.scope.resolve,
        )


@pytest.fixture(scope="module")
def nethack():
    env = envs.make(EnvConfig(name="nethack", slots=1))
    yield env
    env.close()


@pytest.fixture(scope="module")
def crafter():
    env = envs.make(EnvConfig(name="craftax_classic", slots=4, max_steps=0))
    yield env
    env.close()


SPECS = {
    "st": ("status",),
    "inv": ("inventory",),
    "ask": ("game_prompt",),
    "win": ("action_window",),
    "map": ("glyph_map",),
}


def test_nethack_status_inventory_and_questions(nethack):
    player = Player(nethack, 42, SPECS)
    fields = player.percept.fields
    level, hp, share, conditions, text = player.get(
        "st.level", "st.hp", "st.hp_share", "st.conditions", "st.text"
    )
    assert (level, hp, share, conditions) == (1, fields["hp"], 1.0, ())
    assert text.startswith(f"level 1, HP {hp}/{hp}, experience 1/0, gold ")
    items, count, new = player.get("inv.items", "inv.count", "inv.new")
    assert count == len(fields["inventory"].splitlines()) > 0 and new == ()
    letter = next(iter(items))
    assert f"{letter}: {items[letter]}" == fields["inventory"].splitlines()[0]
    assert player.get("ask.waiting", "ask.kind", "ask.options") == (False, "", ())

    player.act("kick")
    assert player.get("ask.waiting", "ask.kind") == (True, "choice")
    assert "direction" in player.get("ask.question")[0]
    assert set(player.get("ask.options")[0]) >= {"north", "southwest"}
    told = player.objection("prompt_reply", "search", observer="ask")
    assert told.startswith("the game asks: In what direction?") and "north" in told
    assert player.objection("prompt_reply", "north", observer="ask") is None
    assert player.objection("prompt_reply", "esc", observer="ask") is None
    player.act("esc")
    assert player.get("ask.waiting") == (False,)
    assert player.objection("prompt_reply", "search", observer="ask") is None


def test_nethack_dropping_is_seen_in_the_inventory(nethack):
    player = Player(nethack, 42, SPECS)
    letter, item = list(player.get("inv.items")[0].items())[-1]
    player.act("drop")
    assert player.get("ask.kind") == ("choice",) and letter in player.get("ask.options")[0]
    assert player.objection("prompt_reply", "pickup", observer="ask") is not None
    assert player.objection("prompt_reply", letter, observer="ask") is None
    player.act(letter)
    assert not player.get("ask.waiting")[0] and letter not in player.get("inv.items")[0]
    assert player.get("inv.lost", "inv.new") == ((item,), ())


def test_nethack_walls_are_guarded_and_a_blocked_step_goes_nowhere(nethack):
    player = Player(nethack, 42, SPECS)
    for _ in range(30):  # walk west to the wall
        if player.percept.done or "west" in player.get("map.blocked")[0]:
            break
        player.act("west" if not player.get("ask.waiting")[0] else "esc")
    assert "west" in player.get("map.blocked")[0]
    told = player.objection("blocked_move", "west", observer="map")
    assert told.startswith("west is blocked (west: ")
    assert player.objection("blocked_move", "far west", observer="map") is not None
    assert player.objection("blocked_move", "search", observer="map") is None
    place = player.percept.fields["x"], player.percept.fields["y"]
    player.act("west")
    assert (player.percept.fields["x"], player.percept.fields["y"]) == place


def test_minihack_back_and_forth():
    env = envs.make(EnvConfig(name="minihack", task="MiniHack-Room-5x5-v0", slots=1))
    player = Player(env, 5, SPECS)
    free = [w for w in ("east", "west") if w in player.get("map.passable")[0]]
    there = free[0]
    back = {"east": "west", "west": "east"}[there]
    player.act(there, back, there)
    assert player.get("win.oscillating") == (True,)
    assert player.get("win.text")[0].endswith("(going back and forth)")
    env.close()


def test_crafter_facing_materials_and_inventory(crafter):
    specs = {"inv": ("inventory",), "win": ("action_window",), "bag": ("delta",)}
    specs["bag"] = ("delta", {"path": "percept.inventory"})
    specs["vit"] = ("vitals", {"paths": {"food": "percept.food", "drink": "percept.drink"}})
    player = Player(crafter, 5, specs)
    assert "health" not in player.get("inv.items")[0] and player.get("inv.count") == (0,)
    needs = {"Place Table": {"inv.items.wood": 1}}
    assert player.objection("materials", "Place Table", needs=needs) == (
        "Place Table needs wood 1 (there is 0)"
    )
    assert player.get("vit.low", "vit.text") == ((), "")

    view, (dx, dy) = player.percept.fields["view"], player.percept.fields["facing"]
    ahead = view[4 + dx][3 + dy]
    assert player.objection("facing", "Do", needs={"Do": [ahead]}) is None
    assert player.objection("facing", "Do", needs={"Do": ["diamond"]}).endswith(ahead)
    # at the world's edge there is nothing in front
    edge = tuple(tuple(None for _ in column) for column in view)
    bare = dataclasses.replace(player.percept, fields={**player.percept.fields, "view": edge})
    player.scope.update(bare)
    assert player.objection("facing", "Do", needs={"Do": ["tree"]}).endswith("in front is nothing")

    assert ahead == "grass"  # whence saplings come, one try in ten
    for _ in range(60):
        if player.act("Do").get("inv.new")[0]:
            break
    assert player.get("inv.new", "bag.since_gain") == (("sapling",), 0)
    assert "sapling +1" in player.get("bag.gained")[0]
    assert player.get("inv.text", "inv.count") == ("sapling 1", 1)


def test_crafter_swinging_moves(crafter):
    player = Player(crafter, 7, SPECS)
    player.act("Move West", "Move East", "Move West")
    assert player.get("win.oscillating") == (False,)
    player.act("Move East")
    assert player.get("win.oscillating") == (True,)
    player.act("Noop")
    assert player.get("win.oscillating") == (False,)
