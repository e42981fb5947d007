"""Craftax, the full game: names from its enums, text that fits the state, one compile."""

import dataclasses
import random

import jax
import numpy as np
import pytest

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs.craftax_full_names import tables

SLOTS = 4


@pytest.fixture(scope="module")
def env():
    env = envs.make(EnvConfig(name="craftax", slots=SLOTS, max_steps=0))
    env.reset(range(SLOTS), [1, 2, 3, 4])
    yield env
    env.close()


def _look(env, state):
    """The words for slot 0 in a state of the test's own making."""
    env.restore(0, dataclasses.replace(env.snapshot(0), state=state))
    none = np.zeros(SLOTS, np.int32)
    env._states, seen = env._engine.place(env._states, none, none.astype(np.uint32), np.int32(0))
    return env._game.words(jax.device_get(seen), [0])[0]


def _set(array, index, value):
    changed = np.array(array)
    changed[index] = value
    return changed


def test_names_come_from_the_game():
    from craftax.craftax.constants import Achievement, Action

    table = tables()
    assert len(table.achievements) == len(Achievement) == 67
    assert len(table.actions) == len(set(table.actions)) == len(Action) == 43
    assert table.actions[:6] == ("Noop", "Move West", "Move East", "Move North", "Move South", "Do")
    assert {"Descend", "Drink Potion Red", "Cast Iceball", "Enchant Bow"} < set(table.actions)
    assert len(table.floors) == 9 and table.floors[2] == "gnomish_mines"
    mobs = table.names[table.creatures : table.projectiles]
    assert mobs[:3] == ("cow", "bat", "snail")
    assert mobs[8:10] == ("zombie", "gnome_warrior") and mobs[-1] == "ice_elemental"
    assert table.spells == ("fireball", "iceball") and table.elements == ("fire", "ice")


def test_first_percept(env):
    assert env.max_steps == 100_000 and "67 achievements" in env.instructions
    percept = env.reset([0], [1])[0]
    fields = percept.fields
    assert len(fields["view"]) == 11 and len(fields["view"][0]) == 9
    assert fields["view"][5][4] == "player"
    assert (fields["floor"], fields["floor_name"]) == (0, "overworld")
    assert fields["limits"] == dict.fromkeys(("health", "food", "drink", "energy", "mana"), 9)
    assert set(fields["inventory"].values()) == {0} and fields["achievements"] == ()
    assert percept.long_text.startswith(
        "You are on floor 0 of 8 (overworld, by day), facing north.\n\nYou see:\n- "
    )
    assert percept.short_text == (
        "Your status:\n- health: 9/9\n- food: 9/9\n- drink: 9/9\n- energy: 9/9\n- mana: 9/9\n"
        "- dexterity: 1/5\n- strength: 1/5\n- intelligence: 1/5\n- experience: 0\n\n"
        "You know no spells.\n\nYou have nothing in your inventory."
    )


def test_play_repeats_in_any_slot_and_compiles_once(env):
    def play(slots):
        percepts = env.reset(slots, [5, 6])
        scripts = [random.Random(seed) for seed in (5, 6)]
        heard = []
        for _ in range(25):
            heard += [(percepts[slot].long_text, percepts[slot].short_text) for slot in slots]
            moves = [script.choice(env.actions) for script in scripts]
            percepts = env.step(dict(zip(slots, moves, strict=True)))
        return heard

    assert play([0, 1]) == play([3, 2])
    kept = env.snapshot(3)
    script = [random.Random(3).choice(env.actions) for _ in range(10)]
    straight = [env.step({3: action})[3] for action in script]
    env.restore(1, kept)
    assert [env.step({1: action, 0: "Noop"})[1] for action in script] == straight
    assert env._engine.place._cache_size() == 1
    assert env._engine.advance._cache_size() == 1


def test_light_creatures_items_and_the_edge(env):
    from craftax.craftax.constants import BlockType, ItemType

    env.reset([0], [1])
    state = env.snapshot(0).state
    row, column = 3, 2  # two columns from the west edge, on floor 2
    ground = _set(state.map, 2, BlockType.PATH.value)
    ground = _set(ground, (2, row, column + 1), BlockType.NECROMANCER.value)
    ground = _set(ground, (2, row + 4, column + 5), BlockType.DIAMOND.value)
    items = _set(_set(state.item_map, 2, 0), (2, row, column), ItemType.LADDER_DOWN.value)
    items = _set(items, (2, row, column + 4), ItemType.LADDER_UP.value)
    light = _set(_set(state.light_map, 2, 1.0), (2, slice(None), column + 5), 0.0)
    melee, shots = state.melee_mobs, state.player_projectiles
    state = state.replace(
        map=ground,
        item_map=items,
        light_map=light,
        player_level=np.int32(2),
        player_position=np.array([row, column], np.int32),
        player_direction=np.int32(2),
        melee_mobs=melee.replace(
            position=_set(melee.position, (2, 0), (row + 2, column)),
            mask=_set(melee.mask, (2, 0), True),
            type_id=_set(melee.type_id, (2, 0), 1),
        ),
        player_projectiles=shots.replace(
            position=_set(shots.position, (2, 0), (row - 1, column)),
            mask=_set(shots.mask, (2, 0), True),
            type_id=_set(shots.type_id, (2, 0), 4),
        ),
    )
    words = _look(env, state)
    view = words.fields["view"]
    assert [x for x in range(11) if view[x][4] is None] == [0, 1, 2]
    assert [y for y in range(9) if view[5][y] is None] == [0]
    assert words.long_text == (
        "You are on floor 2 of 8 (gnomish_mines), facing east.\n\nYou see:\n"
        "- path 1 step to your west\n"
        "- your_arrow 1 step to your north\n"
        "- gnome_warrior 2 steps to your south\n"
        "- necromancer 1 step to your east\n"
        "- ladder_up 4 steps to your east\n"
        "- darkness 5 steps to your east\n\n"
        "You face necromancer at your front.\nYou stand on ladder_down_blocked."
    )
    assert not words.fields["way_down_open"]
    words = _look(env, state.replace(monsters_killed=_set(state.monsters_killed, 2, 8)))
    assert words.fields["way_down_open"] and words.fields["under"] == "ladder_down"
    words = _look(env, state.replace(light_map=np.zeros_like(light)))
    assert "gnome_warrior" not in words.long_text and "ladder" not in words.long_text
    assert words.long_text.endswith("You face darkness at your front.\nYou stand on darkness.")


def test_status_spells_and_gear(env):
    env.reset([0], [1])
    state = env.snapshot(0).state
    carried = state.inventory.replace(
        wood=np.int32(7),
        arrows=np.int32(2),
        pickaxe=np.int32(4),
        sword=np.int32(2),
        bow=np.int32(1),
        armour=np.array([1, 0, 2, 0], np.int32),
        potions=np.array([0, 3, 0, 0, 0, 1], np.int32),
    )
    state = state.replace(
        inventory=carried,
        player_health=np.float32(7.6),
        player_strength=np.int32(3),
        player_xp=np.int32(2),
        learned_spells=np.array([False, True]),
        sword_enchantment=np.int32(1),
        bow_enchantment=np.int32(2),
        armour_enchantments=np.array([0, 1, 2, 0], np.int32),
        achievements=_set(state.achievements, slice(0, 3), True),
        is_resting=np.asarray(True),
    )
    words = _look(env, state)
    assert words.short_text == (
        "Your status:\n- health: 7.6/11\n- food: 9/9\n- drink: 9/9\n- energy: 9/9\n- mana: 9/9\n"
        "- dexterity: 1/5\n- strength: 3/5\n- intelligence: 1/5\n- experience: 2\n\n"
        "Your spells: iceball\n\n"
        "Your inventory:\n- wood: 7\n- arrows: 2\n- potion_green: 3\n- potion_yellow: 1\n"
        "- diamond_pickaxe: 1\n- stone_sword (fire): 1\n- bow (ice): 1\n- iron_helmet: 1\n"
        "- diamond_pants (ice): 1"
    )
    assert words.fields["enchantments"] == {
        "stone_sword": "fire",
        "bow": "ice",
        "diamond_pants": "ice",
    }
    assert words.progression == pytest.approx(3 / 67)
    assert words.fields["achievements"] == ("collect_wood", "place_table", "eat_cow")
    assert words.long_text.startswith("You are resting, ")
    won = _look(env, state.replace(boss_progress=np.int32(8)))
    dead = _look(env, state.replace(player_health=np.float32(0.0)))
    assert (won.end_reason, dead.end_reason) == ("game won", "death")
    assert words.end_reason is None


def test_frame_is_a_picture(env):
    env.reset([0], [1])
    frame = env.frame(0)
    assert frame.dtype == np.uint8 and frame.shape == (208, 176, 3) and frame.std() > 10
