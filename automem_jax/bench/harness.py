"""Harness benchmark: what an agent costs besides environment and model, over a long episode.

A scripted player (automem_jax.testing) that writes and reads memory as a model would plays one episode
under a template. Measured are the time of everything between percept and request and between answer
and action, trace writing included; the trace's size; prompts; and what a KV cache could reuse.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.budget import estimate_tokens
from automem_jax.agent.template import Template
from automem_jax.bench.prefix_share import prefix_share
from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept, TextEnv
from automem_jax.testing import ScriptedPlayer
from automem_jax.text.messages import Request, SamplingSettings
from automem_jax.traces.store import TraceWriter, read_trace

WINDOW = 101  # steps around a place whose median is told
EARLY_STEP = 100
_FIRST_SEED = 1_000


@dataclasses.dataclass(frozen=True)
class HarnessReport:
    """One measured episode.

    Attributes:
      steps, worlds: environment steps, and worlds they took (a death starts the next one).
      early_ms, late_ms: median wall time a step around step EARLY_STEP and at the end.
      early_cpu_ms, late_cpu_ms: the same in processor time, which other processes disturb less.
      ratio: late to early, in processor time.
      trace_kb_per_step: 1 KB is 1,000 bytes. early_kb, late_kb: in the first and the last quarter.
      prompts_per_step, prompt_tokens, prompt_bytes: requests a step, and a prompt's mean size
        (tokens as estimate_tokens gives them, which is on the high side).
      prefix_share: by role and "all", see prefix_share.
      memory_lines, operations: at the end, over the episode.
    """

    env: str
    template: str
    steps: int
    worlds: int
    early_ms: float
    late_ms: float
    early_cpu_ms: float
    late_cpu_ms: float
    ratio: float
    trace_kb_per_step: float
    early_kb: float
    late_kb: float
    prompts_per_step: float
    prompt_tokens: float
    prompt_bytes: float
    prefix_share: dict[str, float]
    memory_lines: int
    operations: int


def measure(
    config: EnvConfig, template: Template, steps: int, directory: Path, *, two_model: bool = False
) -> HarnessReport:
    """Plays one episode of `steps` steps and measures it; its trace is written to `directory`.

    Raises:
      ValueError: fewer steps than two windows.
    """
    if steps < 2 * WINDOW:
        raise ValueError(f"{steps} steps are too few to compare; take at least {2 * WINDOW}")
    from automem_jax import envs

    env = envs.make(dataclasses.replace(config, slots=1, workers=0, max_steps=0))
    try:
        return _measure(env, config, template, steps, directory, two_model)
    finally:
        env.close()


def _measure(
    env: TextEnv,
    config: EnvConfig,
    template: Template,
    steps: int,
    directory: Path,
    two_model: bool,
) -> HarnessReport:
    player = ScriptedPlayer(template.for_task(config.task), env.actions)
    agent = Agent(
        template,
        SamplingSettings(),
        episode=_FIRST_SEED,
        two_model=two_model,
        instructions=env.instructions,
        task=config.task,
    )
    wall, cpu, sizes = [], [], []
    prompts = tokens = size = 0
    worlds = 0
    stream = _Endless(env)
    writer = TraceWriter(directory, f"harness-{template.id}", {"env": config.name, "seed": 0})
    with writer:
        percept = stream.first()
        for _ in range(steps):
            clock = _Clock()
            out: Request | Decision = agent.observe(percept)
            clock.pause()
            while isinstance(out, Request):
                prompts += 1
                tokens += sum(estimate_tokens(m.content) for m in out.messages)
                size += sum(len(m.content.encode()) for m in out.messages)
                completion = player.complete([out])[0]
                clock.go()
                out = agent.receive(completion)
                clock.pause()
            clock.go()
            writer.step(out.record)
            clock.pause()
            wall.append(clock.wall)
            cpu.append(clock.cpu)
            sizes.append(writer.size)
            percept = stream.step(out.action)
        worlds = stream.worlds
        path = writer.end(agent.end_record(percept))
    shares = prefix_share(read_trace(path))
    early = slice(EARLY_STEP - WINDOW // 2, EARLY_STEP + WINDOW // 2 + 1)
    early = early if steps >= EARLY_STEP + WINDOW else slice(WINDOW // 2, WINDOW // 2 + WINDOW)
    late = slice(steps - WINDOW, steps)
    quarter = steps // 4
    early_cpu, late_cpu = statistics.median(cpu[early]), statistics.median(cpu[late])
    statistics_ = agent.end_record(percept)["memory_stats"]
    return HarnessReport(
        env=config.name,
        template=template.id,
        steps=steps,
        worlds=worlds,
        early_ms=1e3 * statistics.median(wall[early]),
        late_ms=1e3 * statistics.median(wall[late]),
        early_cpu_ms=1e3 * early_cpu,
        late_cpu_ms=1e3 * late_cpu,
        ratio=late_cpu / early_cpu,
        trace_kb_per_step=sizes[-1] / steps / 1e3,
        early_kb=(sizes[quarter - 1] - sizes[0]) / max(1, quarter - 1) / 1e3,
        late_kb=(sizes[-1] - sizes[-1 - quarter]) / quarter / 1e3,
        prompts_per_step=prompts / steps,
        prompt_tokens=tokens / prompts,
        prompt_bytes=size / prompts,
        prefix_share={role: shares.share(role) for role in sorted(shares.tokens)}
        | {"all": shares.share()},
        memory_lines=sum(count for _, _, count in agent.store.index()),
        operations=statistics_["ops"],
    )


class _Clock:
    """Wall and processor seconds of what runs between `go` and `pause`; starts running."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.go()

    def go(self) -> None:
        self._cpu, self._wall = time.thread_time(), time.perf_counter()

    def pause(self) -> None:
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.thread_time() - self._cpu


class _Endless:
    """One episode out of many worlds: a death starts the next world, steps are counted on."""

    def __init__(self, env: TextEnv) -> None:
        self._env = env
        self._seeds: Iterator[int] = iter(range(_FIRST_SEED, 1 << 30))
        self._step = 0
        self.worlds = 0

    def first(self) -> Percept:
        return self._new()

    def step(self, action: str) -> Percept:
        percept = self._env.step({0: action})[0]
        self._step += 1
        if percept.done:
            return dataclasses.replace(self._new(), step=self._step, action=percept.action)
        return dataclasses.replace(percept, step=self._step)

    def _new(self) -> Percept:
        self.worlds += 1
        return self._env.reset([0], [next(self._seeds)])[0]


def run(
    configs: list[EnvConfig], template: Template, steps: int, directory: Path
) -> list[dict[str, Any]]:
    """Measures a template in each environment; rows as HarnessReport's fields."""
    return [
        dataclasses.asdict(measure(config, template, steps, directory / config.name))
        for config in configs
    ]
