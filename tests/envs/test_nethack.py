"""The full game: challenge rules, determinism, progression."""

import random

import pytest

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs.progression import nethack_progression


def _play(env, slot: int, seed: int, steps: int):
    percepts = [env.reset([slot], [seed])[slot]]
    script = random.Random(seed)
    moves = [name for name in env.actions if name in ("search", "kick", "eat", "inventory", "esc")]
    moves += ["north", "south", "east", "west", "far east", "far south", "down"]
    while len(percepts) <= steps and not percepts[-1].done:
        percepts.append(env.step({slot: script.choice(moves)})[slot])
    return percepts


@pytest.fixture(scope="module")
def env():
    env = envs.make(EnvConfig(name="nethack", slots=2, max_steps=0))
    yield env
    env.close()


def test_same_seed_same_game(env):
    first = _play(env, 0, 11, 80)
    other = _play(env, 1, 12, 80)
    again = _play(env, 1, 11, 80)
    assert [p.long_text for p in first] == [p.long_text for p in again]
    assert [p.short_text for p in first] == [p.short_text for p in again]
    assert first[0].short_text != other[0].short_text


def test_challenge_settings(env):
    assert env.max_steps == 100_000
    assert {"north", "far north", "pickup", "travel", "esc", "9"} <= set(env.actions)
    assert not {"save", "quit"} & set(env.actions)
    roles = {env.reset([0], [seed])[0].fields["cursor"] for seed in range(6)}
    assert len(roles) > 1  # random characters


def test_no_progress_ends_the_episode(env):
    env.reset([0], [1])
    for _ in range(150):
        percept = env.step({0: "esc"})[0]
    assert (percept.step, percept.end_reason) == (150, "no progress")


def test_more_pages_are_clicked_away(env):
    for percept in _play(env, 0, 21, 120):
        assert "--More--" not in percept.fields["message"]


def test_progression_table():
    assert nethack_progression(1, 1) == 0.0
    assert nethack_progression(2, 1) == pytest.approx(0.015392269)
    assert nethack_progression(3, 1) == pytest.approx(0.017539536)
    assert nethack_progression(4, 1) == pytest.approx(0.021221378)
    assert nethack_progression(1, 8) > nethack_progression(4, 1)
    assert nethack_progression(1, 1, ascended=True) == 1.0
    values = [nethack_progression(depth, 1) for depth in range(1, 60)]
    assert values == sorted(values) and values[-1] < 1.0
