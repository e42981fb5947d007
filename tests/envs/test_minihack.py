"""MiniHack by slot: rules, determinism, errors, crashes."""

import hashlib
import random

import numpy as np
import pytest

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs.nethack import Judge, NleTextEnv, Outcome

MEMENTO = "MiniHack-Memento-Short-F2-v0"
SEEDS = tuple(range(100, 106))


def _route(arm: str) -> list[str]:
    return ["east"] * 6 + [f"{arm}east", arm, f"{arm}east"] + ["east"] * 4


def _walk(env, slot: int, actions: list[str]):
    for action in actions:
        percept = env.step({slot: action})[slot]
        if percept.done:
            break
    return percept


def _digests(env, slots, seeds, steps: int = 25) -> dict[int, str]:
    """Plays scripted actions in the given slots at once; a digest of all texts a seed."""
    seen = {seed: hashlib.sha256() for seed in seeds}
    percepts = env.reset(slots, seeds)
    seed_of = dict(zip(slots, seeds, strict=True))
    scripts = {slot: random.Random(seed) for slot, seed in seed_of.items()}
    for _ in range(steps):
        for slot, percept in percepts.items():
            record = f"{percept.long_text}|{percept.short_text}|{percept.reward}|{percept.done}"
            seen[seed_of[slot]].update(record.encode() + percept.fields["glyphs"].tobytes())
        live = [slot for slot, percept in percepts.items() if not percept.done]
        percepts = env.step({slot: scripts[slot].choice(env.actions) for slot in live})
    return {seed: digest.hexdigest() for seed, digest in seen.items()}


@pytest.fixture(scope="module")
def env():
    env = envs.make(EnvConfig(task=MEMENTO, slots=len(SEEDS)))
    yield env
    env.close()


def test_memento_rewards_the_arm_that_the_cue_names(env):
    cues = set()
    for seed in range(6):
        first = env.reset([0], [seed])[0]
        jelly = "blue jelly" in first.long_text
        assert jelly != ("lichen" in first.long_text)
        cues.add(jelly)
        right, wrong = ("north", "south") if jelly else ("south", "north")
        won = _walk(env, 0, _route(right))
        assert (won.end_reason, won.reward, won.progression) == ("task solved", 1.0, 1.0)
        assert "grid bug" in won.fields["message"]
        env.reset([0], [seed])
        lost = _walk(env, 0, _route(wrong))
        assert (lost.end_reason, lost.reward, lost.progression) == ("task failed", -1.0, 0.0)
        assert env.progression(0) == 0.0
    assert cues == {True, False}


def test_same_seed_same_episode_whatever_slot_history_or_company(env):
    together = _digests(env, range(6), SEEDS)
    assert _digests(env, range(5, -1, -1), SEEDS) == together
    assert _digests(env, [2], [SEEDS[0]])[SEEDS[0]] == together[SEEDS[0]]
    assert len(set(together.values())) > 1


def test_percept_layout(env):
    percept = env.reset([1], [7])[1]
    fields = percept.fields
    assert percept.long_text == (
        f"message:\n{fields['message']}\n\nlanguage observation:\n{fields['language']}\n\n"
        f"cursor:\n{fields['cursor']}\n(x={fields['x']}, y={fields['y'] + 1})\n\n"
        f"map:\n{fields['screen']}\n"
    )
    assert percept.short_text == f"inventory:\n{fields['inventory']}\n"
    assert fields["glyphs"].shape == (21, 79) and fields["glyphs"].dtype == np.int16
    assert fields["blstats"][0] == fields["x"] and fields["hp"] > 0
    assert percept.step == 0 and percept.action is None and not percept.done
    frame = env.frame(1)
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.max() > 0
    # What was handed out stays as it was.
    before = fields["glyphs"].copy()
    env.step({1: "east"})
    assert np.array_equal(before, fields["glyphs"])


def test_unknown_action_runs_the_fallback_and_says_so(env):
    env.reset([0], [3])
    percept = env.step({0: "dance"})[0]
    assert percept.unknown_action == "dance"
    assert percept.action == env.fallback_action
    assert env.step({0: "east"})[0].unknown_action is None


def test_step_cap_and_stepping_a_finished_slot():
    env = envs.make(EnvConfig(task=MEMENTO, slots=2, max_steps=2))
    with pytest.raises(ValueError, match="slot 1 was never reset"):
        env.step({1: "east"})
    env.reset([1], [0])
    last = _walk(env, 1, ["east"] * 5)
    assert (last.step, last.done, last.end_reason) == (2, True, "step cap")
    with pytest.raises(ValueError, match=r"slot 1: its episode is over \(step cap\)"):
        env.step({1: "east"})
    env.close()
    env.close()


def test_zero_keeps_the_tasks_own_cap():
    env = envs.make(EnvConfig(task="MiniHack-Corridor-R3-v0", slots=1, max_steps=0))
    assert env.max_steps == env._slots[0].engine._max_episode_steps > 0
    assert "open" in env.actions and "kick" in env.actions
    env.close()


def test_unknown_names_point_at_the_nearest():
    with pytest.raises(ValueError, match=MEMENTO):
        envs.make(EnvConfig(task="MiniHack-Memento-Shrt-F2-v0"))
    with pytest.raises(ValueError, match="did you mean 'minihack'"):
        envs.make(EnvConfig(name="minihak"))


class _Broken(Judge):
    """Raises on the second step of an episode that has gone east."""

    def begin(self, engine, fields):
        self.steps = 0
        return 0.0

    def judge(self, engine, fields, reward, done, info):
        self.steps += 1
        if self.steps == 2 and fields["x"] > 2:
            raise RuntimeError("boom")
        return Outcome()


def test_an_engine_that_raises_costs_its_own_episode_only():
    whole = envs.make(EnvConfig(task=MEMENTO, slots=1))
    env = NleTextEnv(whole._make_engine, _Broken, slots=2, max_steps=50, instructions="")
    env.reset([0, 1], [5, 5])
    env.step({0: "east", 1: "east"})
    out = env.step({0: "east", 1: "west"})
    assert out[0].failed and out[0].done
    assert out[0].end_reason == "environment crashed: RuntimeError: boom"
    assert not out[1].failed and not out[1].done
    assert not env.reset([0], [5])[0].failed
    env.close()
    whole.close()


@pytest.mark.parametrize(
    ("task", "actions"),
    [
        ("MiniHack-MazeWalk-9x9-v0", 8),
        ("MiniHack-MazeWalk-15x15-v0", 8),
        ("MiniHack-Corridor-R3-v0", 11),
        ("MiniHack-CorridorBattle-Dark-v0", 8),
        ("MiniHack-Quest-Easy-v0", 85),
        ("MiniHack-Quest-Medium-v0", 85),
        ("MiniHack-Memento-Short-F2-v0", 8),
        ("MiniHack-Memento-F2-v0", 8),
        ("MiniHack-Memento-F4-v0", 8),
    ],
)
def test_every_task_replays_a_hundred_scripted_steps(task, actions):
    env = envs.make(EnvConfig(task=task, slots=2))
    assert len(env.actions) == actions and env.fallback_action == "north"
    first = _digests(env, [0], [42], steps=100)
    assert _digests(env, [1], [42], steps=100) == first
    env.close()


def test_the_four_arms_of_memento_are_told_by_pairs_and_the_right_one_wins():
    """The instructions' first arm from the north, walked in seeds whose cue names it."""
    env = envs.make(EnvConfig(task="MiniHack-Memento-F4-v0", slots=1))
    assert "blue jelly and red mold mean the northernmost" in env.instructions
    assert "lichen" not in env.instructions
    for seed in range(40):
        seen = env.reset([0], [seed])[0].fields["language"]
        if "blue jelly" in seen and "red mold" in seen:
            break
    arm = ["north", "north", "northeast"] + ["east"] * 20
    assert _walk(env, 0, ["east"] * 59 + arm).progression == 1.0
    env.reset([0], [seed])
    wrong = ["south", "south", "southeast"] + ["east"] * 20
    assert _walk(env, 0, ["east"] * 59 + wrong).end_reason == "task failed"
    env.close()


def test_autopickup_is_off_unless_asked_for():
    def picked(autopickup):
        env = envs.make(EnvConfig(task="MiniHack-KeyRoom-S5-v0", slots=1, autopickup=autopickup))
        options = env._slots[0].engine.nethack.options
        env.close()
        return "!autopickup" not in options

    assert not picked(False) and picked(True)


def test_the_benchmarks_tasks_have_a_random_character_others_their_own():
    corridor = envs.make(EnvConfig(task="MiniHack-Corridor-R3-v0", slots=1))
    assert len({corridor.reset([0], [s])[0].fields["cursor"] for s in range(6)}) > 1
    corridor.close()
    memento = envs.make(EnvConfig(task=MEMENTO, slots=1))
    assert {memento.reset([0], [s])[0].fields["cursor"] for s in range(6)} == {"Yourself a rogue"}
    memento.close()


def test_snapshot_and_restore(env):
    env.reset([0], [9])
    _walk(env, 0, ["east", "east", "north"])
    mark = env.snapshot(0)
    ahead = _walk(env, 0, ["east", "east"])
    env.restore(3, mark)
    again = _walk(env, 3, ["east", "east"])
    assert (again.long_text, again.step) == (ahead.long_text, ahead.step)
