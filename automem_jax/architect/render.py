"""Traces as compact text for an architect to read, within a budget of characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from automem_jax.evaluation.results import episode_result
from automem_jax.traces.schema import PhaseRecord, Step, Trace
from automem_jax.traces.store import read_trace

_OBSERVATION_CHARS = 600
_ANSWER_CHARS = 200
_REPLY_CHARS = 400


def choose_traces(paths: Sequence[Path], scores: dict[int, float], count: int) -> list[Path]:
    """`count` paths, worst and best episodes in turn, so that both what fails and what works is seen.

    Episodes rank by progression, then seed.
    """
    by_seed = {episode_result(read_trace(path)).seed: path for path in paths}
    ranked = sorted(by_seed, key=lambda seed: (scores.get(seed, 0.0), seed))
    chosen: list[Path] = []
    while ranked and len(chosen) < count:
        seed = ranked.pop(0) if len(chosen) % 2 == 0 else ranked.pop()
        chosen.append(by_seed[seed])
    return chosen


def render_trace(trace: Trace, budget_chars: int) -> str:
    """An episode's steps in order; where they do not fit, the middle is left out and counted."""
    result = episode_result(trace)
    head = (
        f"=== episode seed {result.seed}: progression {result.progression:.3f}, {result.steps} steps, "
        f"ended: {result.end_reason}{', FAILED' if result.failed else ''}\n"
    )
    blocks = []
    before = None
    for step in trace.steps:
        blocks.append(_render_step(step, before))
        before = step.percept["long_text"]
    return head + _fit(blocks, budget_chars - len(head))


def _render_step(step: Step, before: str | None) -> str:
    text = step.percept["long_text"]
    seen = "(as before)" if text == before else _cut(text, _OBSERVATION_CHARS)
    lines = [f"--- t {step.t}, reward {step.percept['reward']:g}", f"observation: {seen}"]
    for phase in step.phases:
        lines += _render_phase(phase)
    source = "" if step.action_source == "model" else f" ({step.action_source})"
    lines.append(f"action: {step.action}{source}")
    return "\n".join(lines) + "\n"


def _render_phase(phase: PhaseRecord) -> list[str]:
    name = phase.phase.upper()
    lines = []
    if phase.shown:
        lines.append(f"{name} shows lines of: {', '.join(sorted(phase.shown))}")
    for turn in phase.turns:
        lines.append(f"{name} {turn.role}: {_cut(turn.completion.text, _REPLY_CHARS)}")
        for operation in turn.operations:
            lines.append(f"  -> {_cut(operation['answer'], _ANSWER_CHARS)}")
        for error in turn.errors:
            lines.append(f"  error: {_cut(error, _ANSWER_CHARS)}")
    return lines


def _fit(blocks: list[str], budget_chars: int) -> str:
    if sum(map(len, blocks)) <= budget_chars:
        return "".join(blocks)
    # Two thirds from the start, where memory is laid down, one third from the end, where it pays.
    mark = "[... {} steps left out ...]\n"
    budget_chars -= len(mark) + 8
    first, last, used = 0, len(blocks), 0
    while first < last and used + len(blocks[first]) <= budget_chars * 2 // 3:
        used += len(blocks[first])
        first += 1
    while last > first and used + len(blocks[last - 1]) <= budget_chars:
        last -= 1
        used += len(blocks[last])
    return "".join(blocks[:first]) + mark.format(last - first) + "".join(blocks[last:])


def _cut(text: str, limit: int) -> str:
    text = text.strip()
    return text if len(text) <= limit else f"{text[:limit]} [+{len(text) - limit} characters]"
