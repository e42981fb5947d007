"""Traces as JSON for an architect to read: episodes, steps, hits of a search, memory between steps.

Everything here was written by the game and the agent. It stands in values of JSON objects, so that
none of it can be taken for the words of a tool.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from automem_jax.agent.store_files import files_at
from automem_jax.evaluation.metrics import BehaviourCounter
from automem_jax.evaluation.results import episode_result
from automem_jax.traces.schema import PhaseRecord, Step, Trace, TraceError

PLACES = ("observation", "reply", "answer", "memory", "action", "prompt")
_AROUND_CHARS = 120
_MEASURES = (
    "unproductive_action_share",
    "redundant_write_share",
    "empty_search_share",
    "write_read_back_share",
    "invalid_action_share",
    "calls_per_step",
    "input_tokens_per_step",
)


def read_seed(path: Path) -> int:
    """The seed of a recorded episode, from its first line alone.

    Raises:
      TraceError: the file has no header with a seed.
    """
    with open(path, "rb") as file:
        line = file.readline()
    try:
        return int(json.loads(line)["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}:1: no header with a seed; run its stage again") from error


def episode_row(trace: Trace) -> dict[str, Any]:
    """One episode's outcome and how it used its memory."""
    result = episode_result(trace)
    counter = BehaviourCounter()
    counter.add(trace)
    counts, measures = counter.counts, counter.result()
    files = files_at(trace.steps)
    row: dict[str, Any] = {
        "episode": result.seed,
        "progression": round(result.progression, 4),
        "steps": result.steps,
        "end_reason": result.end_reason,
        "failed": result.failed,
        "writes": counts["writes"],
        "reads": counts["reads"],
        "guard_rejections": counts["rejected"],
        "lines_at_end": {name: len(lines) for name, lines in sorted(files.items())},
    }
    for name in _MEASURES:
        value = measures[name]
        row[name] = None if value is None else round(value, 4)
    if result.error:
        row["error"] = result.error
    return row


def step_view(step: Step, before: str | None = None, *, prompts: bool = False) -> dict[str, Any]:
    """One step: observation, the two conversations with their operations and results, action.

    Args:
      before: the observation of the step before; the same text is not told twice.
      prompts: tell the prompts too, of each turn what is new in it.
    """
    percept = step.percept
    text = percept["long_text"]
    seen: dict[str, Any] = {"step": step.t}
    seen["observation"] = (
        "(as in the step before)" if before is not None and text == before else text
    )
    if percept["short_text"] and percept["short_text"] not in text:
        seen["short"] = percept["short_text"]
    seen |= {"reward": percept["reward"], "progression": percept["progression"]}
    if percept.get("changed") is not None:
        seen["last_action_changed_something"] = percept["changed"]
    if percept.get("unknown_action"):
        seen["refused_action"] = percept["unknown_action"]
    for phase in step.phases:
        seen[phase.phase] = _phase_view(phase, prompts)
    if step.memory:
        seen["memory_changes"] = [told for change in step.memory for told in _change(change)]
    seen["action"] = step.action
    if step.action_source != "model":
        seen["action_source"], seen["action_as_written"] = step.action_source, step.proposed
    if step.errors:
        seen["errors"] = list(step.errors)
    return seen


def _phase_view(phase: PhaseRecord, prompts: bool) -> dict[str, Any]:
    view: dict[str, Any] = {}
    if phase.shown:
        view["files_shown"] = sorted(phase.shown)
    if phase.cuts:
        view["cut_by_token_budget"] = sorted({cut["slot"] for cut in phase.cuts})
    view["turns"] = []
    known = 0
    for turn in phase.turns:
        told: dict[str, Any] = {}
        if prompts:
            told["prompt"] = [
                {"role": message.role, "text": message.content} for message in turn.messages[known:]
            ]
            known = len(turn.messages)
        if turn.role != "gameplay":
            told["by"] = turn.role
        told["reply"] = turn.completion.text
        if turn.operations:
            told["operations"] = [
                {"op": o["op"], "file": o["file"], "ok": o["ok"], "answer": o["answer"]}
                for o in turn.operations
            ]
        if turn.rejected is not None:
            told["sent_back_by_guard"] = turn.rejected
        errors = [*turn.errors, *([turn.completion.error] if turn.completion.error else [])]
        if errors:
            told["errors"] = errors
        view["turns"].append(told)
    return view


def _change(change: dict[str, Any]) -> Iterator[str]:
    file = change["file"]
    if change["op"] == "insert":
        yield from (f"{file} + {text}" for _, text in change["lines"])
    elif change["op"] == "remove":
        yield f"{file} - {len(change['ids'])} lines"
    else:
        yield f"{file}: {change['op']}"


def search_trace(trace: Trace, text: str, places: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Where a text stands in an episode, case aside: step, place, and what stands around it."""
    wanted = text.casefold()
    before = None
    for step in trace.steps:
        for place, held in _texts(step, before):
            if place in places:
                at = held.casefold().find(wanted)
                if at >= 0:
                    first, last = max(0, at - _AROUND_CHARS), at + len(text) + _AROUND_CHARS
                    yield {"step": step.t, "where": place, "excerpt": held[first:last]}
        before = step.percept["long_text"]


def _texts(step: Step, before: str | None) -> Iterator[tuple[str, str]]:
    if step.percept["long_text"] != before:
        yield "observation", step.percept["long_text"]
    for phase in step.phases:
        known = 0
        for turn in phase.turns:
            for message in turn.messages[known:]:
                yield "prompt", message.content
            known = len(turn.messages)
            yield "reply", turn.completion.text
            for operation in turn.operations:
                yield "answer", operation["answer"]
            for error in turn.errors:
                yield "answer", error
    for change in step.memory:
        for told in _change(change):
            yield "memory", told
    yield "action", step.action


def memory_difference(trace: Trace, first: int, last: int) -> list[dict[str, Any]]:
    """What changed in each file from after step `first` to after step `last`; -1 is the start."""
    old = files_at(trace.steps, first) if first >= 0 else {}
    new = files_at(trace.steps, last)
    told = []
    for name in sorted({*old, *new}):
        before = [text for _, text in old.get(name, ())]
        after = [text for _, text in new.get(name, ())]
        if before == after and (name in old) == (name in new):
            continue
        lines = list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
        state = "new" if name not in old else "deleted" if name not in new else "changed"
        told.append({"file": name, "state": state, "lines": len(after), "diff": lines})
    return told
