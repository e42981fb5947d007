"""Craftax-Classic by slot: one compile, independent slots, text that fits the state."""

import dataclasses
import pickle
import random

import jax
import numpy as np
import pytest

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs.crafter_text import describe

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


def _look(env, state):
    """The words for slot 0 in a state of the test's own making."""
    env.restore(0, dataclasses.replace(env.snapshot(0), state=state))
    none = np.zeros(SLOTS, np.int32)
    env._states, seen = env._engine.place(env._states, none, none.astype(np.uint32), np.int32(0))
    return env._game.words(jax.device_get(seen), [0])[0]


def test_same_seed_same_episode_and_one_compile(env):
    together = _play(env, range(SLOTS), [5, 6, 7, 8])
    assert _play(env, [3, 2, 1, 0], [5, 6, 7, 8]) == together
    assert _play(env, [1], [7])[7] == together[7]
    assert len({tuple(texts) for texts in together.values()}) == SLOTS
    env.restore(2, env.snapshot(1))
    env.step({1: "Noop", 2: "Noop"})
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


def test_text_is_that_of_describe(env):
    percepts = env.reset(range(SLOTS), [1, 2, 3, 4])
    script = random.Random(0)
    for _ in range(60):
        for percept in percepts.values():
            fields = percept.fields
            assert (percept.long_text, percept.short_text) == describe(
                *(fields[key] for key in ("view", "facing", "inventory", "sleeping", "dead"))
            )
        live = [slot for slot, percept in percepts.items() if not percept.done]
        percepts = env.step({slot: script.choice(env.actions) for slot in live})


def test_slots_that_do_not_act_stand_still(env):
    env.reset([0, 1], [5, 6])
    before = env.snapshot(1).state
    env.step({0: "Noop"})
    after = env.snapshot(1).state
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


def test_snapshot_goes_on_the_same_in_any_slot(env):
    env.reset([0, 1], [5, 6])
    script = [random.Random(1).choice(env.actions) for _ in range(30)]
    for action in script[:10]:
        env.step({0: action, 1: "Noop"})
    snapshot = pickle.loads(pickle.dumps(env.snapshot(0)))
    straight = [env.step({0: action})[0] for action in script]
    restored = env.restore(3, snapshot)
    assert restored.step == 10
    again = [env.step({3: action, 1: "Move West"})[3] for action in script]
    assert again == straight
    with pytest.raises(ValueError, match="snapshot"):
        env.restore(0, "something else")
    with pytest.raises(ValueError, match="slot 4 is outside"):
        env.restore(4, snapshot)


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
    state = env.snapshot(0).state
    corner = state.replace(player_position=np.zeros_like(state.player_position))
    words = _look(env, corner)
    view = words.fields["view"]
    outside = {(x, y) for x in range(9) for y in range(7) if view[x][y] is None}
    assert outside == {(x, y) for x in range(9) for y in range(7) if x < 4 or y < 3}
    assert "None" not in words.long_text and "west" not in words.long_text


def test_death_ends_the_episode(env):
    env.reset([0], [9])
    words = _look(env, env.snapshot(0).state.replace(player_health=np.int32(0)))
    assert (words.end_reason, words.fields["dead"]) == ("death", True)
    assert words.long_text.startswith("You died.\n\n\n\nYou see:")


def test_frame_is_a_picture(env):
    env.reset([0, 1], [5, 6])
    one, other = env.frame(0), env.frame(1)
    assert one.dtype == np.uint8 and one.shape == other.shape == (144, 144, 3)
    assert one.std() > 10 and not np.array_equal(one, other)
