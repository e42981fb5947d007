"""Episodes are the same bytes however many play at once, and whatever of their prompts was cached."""

import dataclasses
import json

from automem_jax.agent.template import load_template
from automem_jax.config import ExperimentConfig
from automem_jax.policies.local import LocalPolicy
from automem_jax.rollout.runner import Runner
from automem_jax.traces.store import list_traces

STEPS, SEEDS = 3, range(4)


def played(directory, slots, reuse, monkeypatch, seeds=SEEDS):
    """What the traces hold, without times."""
    made = LocalPolicy.__init__

    def with_reuse(self, *args, **settings):
        made(self, *args, **settings, prefix_reuse=reuse)

    monkeypatch.setattr(LocalPolicy, "__init__", with_reuse)
    config = ExperimentConfig()
    env = dataclasses.replace(config.env, prompt_mode="language", max_steps=STEPS, slots=slots)
    model = dataclasses.replace(config.model, max_context=384, slots=slots)
    sampling = dataclasses.replace(config.sampling, max_tokens=24, min_p=0.03)
    runner = Runner(dataclasses.replace(config, env=env, model=model, sampling=sampling))
    try:
        runner.run("base", load_template("memento_v0"), seeds, directory)
        reused = runner.policy().usage.reused_tokens
    finally:
        runner.close()
        monkeypatch.undo()
    traces = {path.name: path.read_text().splitlines()[1:] for path in list_traces(directory)}
    return {name: [json.loads(line) for line in lines] for name, lines in traces.items()}, reused


def test_an_episode_is_the_same_alone_and_in_company_with_and_without_reuse(tmp_path, monkeypatch):
    alone, reused = played(tmp_path / "1", 1, True, monkeypatch)
    assert reused > 0 and len(alone) == len(SEEDS)
    together, none = played(tmp_path / "8", 8, False, monkeypatch)
    assert none == 0
    assert together == alone
    crowd, reused = played(tmp_path / "64", 64, True, monkeypatch, range(64))
    assert reused > 0 and len(crowd) == 64
    assert {name: crowd[name] for name in alone} == alone
