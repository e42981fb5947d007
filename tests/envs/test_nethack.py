"""The full game: challenge rules, determinism, progression."""

import _ctypes
import ctypes
import dataclasses
import os
import pickle
import random

import pytest

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs.branching import BranchError, digest
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
    for _ in range(151):  # the first key starts the count, as in NetHackChallenge
        percept = env.step({0: "esc"})[0]
    assert (percept.step, percept.end_reason) == (151, "no progress")


def test_death_names_its_cause(env):
    percept = env.reset([1], [0])[1]
    script = random.Random(0)
    moves = ("far north", "far south", "far east", "far west", "fight", "north", "down", "esc")
    while not percept.done:
        percept = env.step({1: script.choice((*moves, "far southeast", "y", "search", "more"))})[1]
    assert percept.end_reason.startswith("death: killed by ")
    assert percept.fields["how_done"] == "died"
    assert "You die..." in percept.fields["message"]


def test_both_prompt_modes(env):
    hybrid = env.reset([0], [5])[0]
    fields = hybrid.fields
    row, column = env._slots[0].frame[2]
    assert len(fields["screen"].splitlines()) == 23
    assert {len(line) for line in fields["screen"].splitlines()} == {80}
    assert hybrid.long_text == (
        f"message:\n{fields['message']}\n\nlanguage observation:\n{fields['language']}\n\n"
        f"cursor:\n{fields['cursor']}\n(x={column}, y={row})\n\nmap:\n{fields['screen']}\n"
    )
    assert hybrid.short_text == f"inventory:\n{fields['inventory']}\n"
    other = envs.make(
        EnvConfig(name="nethack", slots=1, prompt_mode="language", numeric_distances=True)
    )
    language = other.reset([0], [5])[0]
    other.close()
    fields = language.fields
    assert " tiles " in fields["language"]
    assert language.long_text == (
        f"message:\n{fields['message']}\n\nlanguage observation:\n{fields['language']}\n\n"
        f"cursor:\n{fields['cursor']}\n"
    )
    assert language.short_text == (
        f"statistics:\n{fields['blstats_text']}\n\ninventory:\n{fields['inventory']}\n"
    )
    with pytest.raises(ValueError, match="prompt_mode"):
        envs.make(EnvConfig(name="nethack", slots=1, prompt_mode="image"))


def test_letters_answer_questions(env):
    percept = env.reset([0], [5])[0]
    assert {"a", "d", "T"} <= set(percept.actions) and env.fallback_action == "esc"
    asked = env.step({0: "drop"})[0]
    assert "What do you want to drop?" in asked.fields["message"]
    assert asked.fields["prompt"] == "choice"
    dropped = env.step({0: "c"})[0]
    assert dropped.unknown_action is None and "You drop" in dropped.fields["message"]


def test_snapshot_and_restore_are_exact(env):
    env.reset([0], [21])
    for action in ("far east", "search", "no such action", "kick", "north"):
        before = env.step({0: action})[0]
    mark = env.snapshot(0)
    assert mark.actions[2] == "no such action" and mark == pickle.loads(pickle.dumps(mark))
    ahead = env.step({0: "far west"})[0]
    back = env.restore(1, mark)
    assert digest(back) == digest(before) == mark.digest
    assert digest(env.step({1: "far west"})[1]) == digest(ahead)
    with pytest.raises(BranchError, match="another observation"):
        env.restore(1, dataclasses.replace(mark, seed=22))
    with pytest.raises(ValueError, match="never reset"):
        env.step({1: "north"})


def test_nothing_of_the_wall_clock_reaches_the_game(env):
    """Moon phase and Friday the 13th: NLE's option. Shopkeepers' names: the game's birthday."""
    born = []
    for seed in (3, 3, 4):
        env.reset([0], [seed])
        engine = env._slots[0].engine
        library = _ctypes.dlopen(engine.nethack.dlpath, os.RTLD_LAZY | os.RTLD_NOLOAD)
        born.append(ctypes.c_long.from_address(_ctypes.dlsym(library, "ubirthday")).value)
        _ctypes.dlclose(library)
    assert born == [946_684_803, 946_684_803, 946_684_804]
    seen = {}

    class Engine:
        def __init__(self, **settings):
            seen.update(settings)
            raise RuntimeError("seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nle.env.tasks.NetHackScore", Engine)
        with pytest.raises(RuntimeError, match="seen"):
            envs.make(EnvConfig(name="nethack", slots=1))
    assert seen["fix_moon_phase"] is True and seen["character"] == "@"


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
