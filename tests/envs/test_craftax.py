"""Craftax-Classic by slot: one compile, independent slots, text that fits the state."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from craftax.craftax_classic.envs.craftax_state import EnvParams

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs.craftax import sight

SLOTS = 4


@pytest.fixture(scope="module")
def env():
    env = envs.make(EnvConfig(name="craftax_classic", slots=SLOTS, max_steps=0))
    yield env
    env.close()


def _play(env, slots, seeds, steps=40):
    texts = {seed: [] for seed in seeds}
    percepts = env.reset(slots, seeds)
    seed_of = dict(zip(slots, seeds, strict=True))
    scripts = {slot: random.Random(seed) for slot, seed in seed_of.items()}
    for _ in range(steps):
        for slot, percept in percepts.items():
            texts[seed_of[slot]].append((percept.long_text, percept.short_text, percept.reward))
        live = [slot for slot, percept in percepts.items() if not percept.done]
        percepts = env.step({slot: scripts[slot].choice(env.actions) for slot in live})
    return texts


def test_same_seed_same_episode_and_one_compile(env):
    together = _play(env, range(SLOTS), [5, 6, 7, 8])
    assert _play(env, [3, 2, 1, 0], [5, 6, 7, 8]) == together
    assert _play(env, [1], [7])[7] == together[7]
    assert len({tuple(texts) for texts in together.values()}) == SLOTS
    assert env._engine.place._cache_size() == 1
    assert env._engine.advance._cache_size() == 1


def test_percept_and_moves(env):
    first = env.reset([0], [5])[0]
    assert env.max_steps == 2_000 and len(env.actions) == 17
    assert first.fields["view"][4][3] == "player"
    assert len(first.fields["view"]) == 9 and len(first.fields["view"][0]) == 7
    assert first.fields["health"] == 9 and first.progression == 0.0
    for action, facing in (
        ("Move West", (-1, 0)),
        ("Move East", (1, 0)),
        ("Move North", (0, -1)),
        ("Move South", (0, 1)),
    ):
        percept = env.step({0: action})[0]
        assert percept.fields["facing"] == facing
    assert (percept.step, percept.action, percept.unknown_action) == (4, "Move South", None)
    odd = env.step({0: "Fly"})[0]
    assert (odd.action, odd.unknown_action) == ("Noop", "Fly")


def test_slots_that_do_not_act_stand_still(env):
    env.reset([0, 1], [5, 6])
    before = np.asarray(env._states.map[1]).copy(), int(env._states.timestep[1])
    env.step({0: "Noop"})
    assert np.array_equal(before[0], np.asarray(env._states.map[1]))
    assert before[1] == int(env._states.timestep[1])


def test_step_cap_and_finished_slot():
    env = envs.make(EnvConfig(name="craftax_classic", slots=SLOTS, max_steps=2))
    env.reset([2], [1])
    env.step({2: "Noop"})
    last = env.step({2: "Noop"})[2]
    assert (last.done, last.end_reason) == (True, "step cap")
    with pytest.raises(ValueError, match="slot 2: its episode is over"):
        env.step({2: "Noop"})
    with pytest.raises(ValueError, match="slot 0 was never reset"):
        env.step({0: "Noop"})


def test_outside_the_world_is_absent(env):
    env.reset([0], [9])
    world = jax.tree.map(lambda leaf: leaf[0], env._states)
    corner = world.replace(player_position=jnp.zeros_like(world.player_position))
    one = jax.device_get(sight(corner, EnvParams()))
    percept = env._percept(one, before=None)
    view = percept.fields["view"]
    outside = {(x, y) for x in range(9) for y in range(7) if view[x][y] is None}
    assert outside == {(x, y) for x in range(9) for y in range(7) if x < 4 or y < 3}
    assert "None" not in percept.long_text and "west" not in percept.long_text
