"""The prompts that a template makes of a percept: an episode is played again up to a step.

Environments replay exactly, so a percept is recorded by its seed and the actions that led to it. What
the agent remembers by then comes from the replies of a recorded trace, or from a line it notes a step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from automem_jax.agent import prompts
from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.budget import estimate_tokens
from automem_jax.agent.conditions import holds
from automem_jax.agent.grammar import format_operation
from automem_jax.agent.template import Template, operations_of
from automem_jax.agent.validate import operations_offered
from automem_jax.envs.base import Percept, TextEnv
from automem_jax.text.messages import Completion, Message, Request, SamplingSettings
from automem_jax.traces.schema import Trace

Reply = Callable[[Request, Percept], str]


@dataclass(frozen=True)
class SlotSize:
    """One slot of a prompt: its part, estimated tokens and characters before any cut, and how many of
    how many characters the token budget left (None: all)."""

    slot: str
    role: str
    tokens: int
    characters: int
    cut: tuple[int, int] | None


@dataclass(frozen=True)
class PhasePreview:
    """A phase's first prompt."""

    phase: str
    messages: tuple[Message, ...]
    slots: tuple[SlotSize, ...]
    operations: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Estimated on the safe side, as the agent does without a tokenizer."""
        return sum(estimate_tokens(message.content) for message in self.messages)


def preview(
    template: Template,
    env: TextEnv,
    *,
    task: str,
    seed: int,
    step: int,
    trace: Trace | None = None,
) -> list[PhasePreview]:
    """The first prompts of LOG (where it runs) and of PLAN at a step.

    Args:
      env: with a free slot 0.
      trace: whose actions are taken and whose replies are given; else both are made up, the actions at
        random from a fixed start.

    Raises:
      ValueError: the episode ends before that step, or does not run as recorded.
      ConfigError: the template does not validate, or needs what this environment's percepts lack.
    """
    agent = Agent(
        template,
        SamplingSettings(),
        episode=seed,
        two_model=False,
        instructions=env.instructions,
        task=task,
    )
    actions, reply = _recorded(trace) if trace else _made_up(agent.template, env)
    percept = env.reset([0], [seed])[0]
    for t in itertools.count():
        _check_recorded(trace, t, percept)
        found = _play_step(agent, percept, reply)
        if t == step:
            return found
        action = next(actions, None)
        percept = env.step({0: action})[0] if action is not None else percept
        if action is None or percept.done:
            raise ValueError(
                f"step {step}: the episode has only {t + 1} steps; ask for an earlier one"
            )
    raise AssertionError("an endless loop ended")


def _play_step(agent: Agent, percept: Percept, reply: Reply) -> list[PhasePreview]:
    found = []
    out = agent.observe(percept)
    while not isinstance(out, Decision):
        if out.key.turn == 0:
            found.append(_phase_preview(agent, out))
        out = agent.receive(Completion(reply(out, percept)))
    names = {record["phase"]: record.get("cuts", ()) for record in out.record["phases"]}
    return [_with_cuts(phase, names.get(phase.phase, ())) for phase in found]


def _phase_preview(agent: Agent, request: Request) -> PhasePreview:
    phase = request.key.phase
    spec = agent.template.phases.log if phase == "log" else agent.template.phases.plan
    slots, ops = spec.slots, ()
    if phase == "plan":
        resolve = agent.scene(()).resolve
        mode = next((m for m in spec.modes if holds(m.when, resolve)), None)
        slots, ops = (mode.slots or slots, mode.ops) if mode else (slots, ())
    operations = operations_offered(agent.template, phase, ops)
    scene = agent.scene(operations)
    sizes = []
    for role, names in (("system", spec.system), ("user", slots)):
        for name in names:
            messages, _ = prompts.render((), (name,), scene)
            text = messages[-1].content
            sizes.append(SlotSize(name, role, estimate_tokens(text), len(text), None))
    return PhasePreview(phase, request.messages, tuple(sizes), operations)


def _with_cuts(phase: PhasePreview, cuts: Any) -> PhasePreview:
    first = {cut["slot"]: (cut["kept"], cut["of"]) for cut in cuts if not cut.get("turn")}
    slots = tuple(
        SlotSize(s.slot, s.role, s.tokens, s.characters, first.get(s.slot)) for s in phase.slots
    )
    return PhasePreview(phase.phase, phase.messages, slots, phase.operations)


def _recorded(trace: Trace) -> tuple[Iterator[str], Reply]:
    texts = {
        (step.t, phase.phase, index): turn.completion.text
        for step in trace.steps
        for phase in step.phases
        for index, turn in enumerate(phase.turns)
    }
    actions = {step.t: step.action for step in trace.steps}

    def reply(request: Request, percept: Percept) -> str:
        key = request.key
        other = "<|DONE|>" if key.phase == "log" else f"<|ACTION|>{actions[key.step]}<|END|>"
        # Prompts of another template may ask for more turns than were recorded.
        return texts.get((key.step, key.phase, key.turn), other)

    return iter(actions.values()), reply


def _made_up(template: Template, env: TextEnv) -> tuple[Iterator[str], Reply]:
    choices = random.Random(0)
    spelling = template.operations.get("APPEND", "APPEND")
    offered = operations_offered(template, "log")
    file = next(
        (n for n, spec in template.files.items() if "APPEND" in operations_of(spec) and offered), ""
    )

    def reply(request: Request, percept: Percept) -> str:
        if request.key.phase == "plan":
            return f"<|ACTION|>{percept.actions[0]}<|END|>"
        if request.key.turn or not file:
            return "<|DONE|>"
        note = f"step {percept.step}: {percept.action}"
        return format_operation("APPEND", file, note, spelling=spelling) + "<|DONE|>"

    def actions() -> Iterator[str]:
        while True:
            yield choices.choice(env.actions)

    return actions(), reply


def _check_recorded(trace: Trace | None, t: int, percept: Percept) -> None:
    if trace is None or t >= len(trace.steps):
        return
    for name in ("long_text", "short_text"):
        if trace.steps[t].percept[name] != getattr(percept, name):
            raise ValueError(
                f"step {t}: the environment's {name} is not the recorded one; it was recorded with "
                "another version or other settings (see --prompt-mode)"
            )
