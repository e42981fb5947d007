"""Items to measure training with, where no selected ones are given: turns of a scripted player."""

from __future__ import annotations

import json
import random
from pathlib import Path

from automem_jax import envs
from automem_jax.agent.grammar import format_operation
from automem_jax.agent.template import Template, load_template
from automem_jax.config import ExperimentConfig, SelectionConfig
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.selection.examples import select
from automem_jax.testing import ScriptedPolicy
from automem_jax.text.messages import Request

FIRST_SEED = 3_000_000
EPISODES = 24


def scripted_examples(config: ExperimentConfig, out: Path, count: int) -> Path:
    """Plays the config's environment and template by a script and writes `count` of its memory turns.

    The prompts are real ones, observations and growing notes and all; what the player writes down is
    of no use to anybody. Returns the path of examples.jsonl. The same every time.
    """
    template = load_template(config.agent.template)
    env = envs.make(config.env)
    spec = RolloutSpec.scripted(config.env.name, config.env.task, template)
    seeds = range(FIRST_SEED, FIRST_SEED + EPISODES)
    try:
        policy = ScriptedPolicy(lambda request: _answer(request, template, list(env.actions)))
        played = run_episodes(env, policy, spec, seeds, out / "traces", show_progress=False)
    finally:
        env.close()
    wanted = out / "wanted.json"
    wanted.write_text(json.dumps({"phases": {"log": count - count // 2, "plan": count // 2}}))
    report = select(played.paths, SelectionConfig(kind="random"), out / "select", match=wanted)
    return Path(report.examples)


def _answer(request: Request, template: Template, actions: list[str]) -> str:
    """LOG: a line into the first log, most of the time. PLAN: looks a file up, then moves."""
    key = request.key
    chance = random.Random(f"{key.episode} {key.step} {key.phase} {key.turn}")
    names = list(template.files)
    if key.phase == "log":
        if key.turn or chance.random() < 0.2:
            return "<|DONE|>"
        seen = request.messages[-1].content.split()
        words = " ".join(chance.sample(seen, min(len(seen), chance.randint(4, 16))))
        text = "".join(letter for letter in words if letter.isalnum() or letter in " .,:")
        note = format_operation("APPEND", names[0], f"step {key.step}: {text}".strip())
        return f"{note}<|DONE|>"
    if key.turn == 0 and chance.random() < 0.6:
        return format_operation("READ", chance.choice(names))
    return f"<|ACTION|>{chance.choice(actions)}<|END|>"
