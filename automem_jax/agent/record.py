"""What a trace keeps of an agent's step: percepts, completions, operations, and the episode's end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.agent.grammar import READ_OPERATIONS, WRITE_OPERATIONS, Operation
from automem_jax.agent.memory import Result
from automem_jax.envs.base import Percept
from automem_jax.text.messages import Completion, Message

_LOGPROB_FLOOR = -1e4  # JSON has no infinity

STATISTICS = (
    "ops",
    "valid",
    "redundant",
    "empty_searches",
    "reads",
    "writes",
    "writes_log",
    "searches_log",
    "actions",
    "unproductive_actions",
    "repairs",
    "rejections",
    "fallbacks",
    "failed_calls",
)


def step_record(percept: Percept, changed: bool | None) -> dict[str, Any]:
    """The record of a step that begins; see percept_record."""
    return {
        "type": "step",
        "t": percept.step,
        "percept": percept_record(percept, changed),
        "phases": [],
        "memory": [],
        "action": "",
        "action_source": "",
        "proposed": None,
        "errors": [],
    }


def turn_record(role: str, new: Sequence[Message]) -> dict[str, Any]:
    """The record of a turn that begins: whose it is, and the messages since the last one."""
    return {
        "role": role,
        "prompt": [{"role": m.role, "text": m.content} for m in new],
        "completion": None,
        "operations": [],
        "action": None,
        "done": False,
        "stripped_action": None,
        "rejected": None,
        "errors": [],
    }


def operation_record(operation: Operation, result: Result) -> dict[str, Any]:
    """What was asked, and what came of it."""
    return {
        "op": operation.op,
        "args": list(operation.args),
        "file": result.file,
        "start": operation.start,
        "end": operation.end,
        "ok": result.ok,
        "answer": result.answer,
        "error": result.error,
        "wrote": list(result.wrote),
        "read": list(result.read),
        "redundant": result.redundant,
        "empty": result.empty,
    }


def count_operation(statistics: dict[str, int], phase: str, op: str, result: Result) -> None:
    """Adds an operation to the statistics."""
    statistics["ops"] += 1
    statistics["valid"] += result.ok
    statistics["redundant"] += result.redundant
    statistics["empty_searches"] += op == "SEARCH" and result.empty
    statistics["reads"] += op in READ_OPERATIONS
    statistics["writes"] += op in WRITE_OPERATIONS
    statistics["writes_log"] += phase == "log" and op in WRITE_OPERATIONS
    statistics["searches_log"] += phase == "log" and op == "SEARCH"


def end_record(
    percept: Percept | None,
    error: str | None,
    tokens: Mapping[str, int],
    statistics: Mapping[str, int],
    changed: bool | None = None,
) -> dict[str, Any]:
    """The end record of an agent of any kind; see Agent.end_record."""
    broken = percept is None or percept.failed or error is not None
    reason = percept.end_reason if percept is not None else None
    return {
        "type": "end",
        "progression": float(percept.progression) if percept is not None else 0.0,
        "steps": percept.step if percept is not None else 0,
        "end_reason": reason or ("error" if broken else "cut off"),
        "failed": broken,
        "error": error,
        "percept": percept_record(percept, changed) if percept is not None else None,
        "tokens": dict(tokens),
        "memory_stats": dict(statistics),
    }


def percept_record(percept: Percept, changed: bool | None = None) -> dict[str, Any]:
    """What a trace keeps of a percept; `map` where the environment draws one, `changed` (whether the
    last action did anything that the agent can see) where there was an action."""
    drawn = percept.fields.get("map")
    record = {
        "long_text": percept.long_text,
        "short_text": percept.short_text,
        "reward": float(percept.reward),
        "done": bool(percept.done),
        "progression": float(percept.progression),
        "end_reason": percept.end_reason,
        "action": percept.action,
        "unknown_action": percept.unknown_action,
        "failed": bool(percept.failed),
    }
    if changed is not None:
        record["changed"] = changed
    if drawn:
        record["map"] = _without_blank_edges(drawn)
    return record


def _without_blank_edges(drawn: str) -> str:
    """A drawn map without the blank rows above and below it."""
    rows = drawn.split("\n")
    filled = [i for i, row in enumerate(rows) if row.strip()]
    return "\n".join(rows[filled[0] : filled[-1] + 1]) if filled else ""


def completion_record(completion: Completion) -> dict[str, Any]:
    """What a trace keeps of a completion; log-probabilities rounded to four places."""
    return {
        "text": completion.text,
        "token_ids": [int(i) for i in completion.token_ids],
        "logprobs": [
            round(float(p), 4) if math.isfinite(p) else _LOGPROB_FLOOR for p in completion.logprobs
        ],
        "finish_reason": completion.finish_reason,
        "prompt_tokens": int(completion.prompt_tokens),
        "completion_tokens": int(completion.completion_tokens),
        "error": completion.error,
    }
