"""The scripted players that embedded bases imitate: who notes the cue and reads it, wins."""

import sys
from pathlib import Path

import numpy as np
import pytest

from automem_jax import envs
from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.template import load_template
from automem_jax.config import EnvConfig
from automem_jax.text.messages import Completion, SamplingSettings

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

import memento_player

SOUND = memento_player.Habits(
    record_cue=1.0,
    record_trivia=0.0,
    consult=1.0,
    trivia=0.0,
    search=0.5,
    stray_action=0.0,
    stray_log=0.0,
    stray_log_of_cue=0.0,
)


def play(env, task, template, player, seed):
    """The episode's last percept, and the cue."""
    template = load_template(template)
    fields = {"two_model": False, "instructions": env.instructions, "task": task}
    agent = Agent(template, SamplingSettings(), episode=seed, **fields)
    percept = env.reset([0], [seed])[0]
    cue = player.cue(percept.fields["language"])
    while not percept.done:
        if player.skips(percept):
            percept = env.step({0: "east"})[0]
            continue
        out = agent.observe(percept)
        while not isinstance(out, Decision):
            out = agent.receive(Completion(player.answer(out, percept).text))
        percept = env.step({0: out.action})[0]
    return percept, cue


@pytest.mark.parametrize(
    ("task", "template", "kind", "cues"),
    [
        ("MiniHack-Memento-Short-F2-v0", "memento_v0", memento_player.MementoPlayer, 2),
        ("MiniHack-Memento-F4-v0", "memento_f4_v0", memento_player.MementoF4Player, 4),
    ],
)
def test_a_player_with_sound_habits_wins_whatever_the_cue(task, template, kind, cues):
    env = envs.make(EnvConfig(task=task, slots=1, max_steps=100, prompt_mode="language"))
    met = set()
    for seed in range(3_000, 3_040):
        player = kind(SOUND, np.random.default_rng(seed), "notes")
        percept, cue = play(env, task, template, player, seed)
        assert percept.progression == 1.0, (seed, cue, percept.end_reason)
        met.add(cue)
        if len(met) == cues:
            break
    env.close()
    assert len(met) == cues
