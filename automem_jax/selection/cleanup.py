"""The deterministic clean-up of a supervised turn: it ends as a chain of memory operations.

Each step is a function from text to text and only ever takes something away. `clean_turn` runs them in
METHOD's order until nothing changes, so cleaning twice is cleaning once.

A cleaned LOG turn does not keep its `<|DONE|>`: an item is a chain of memory operations and nothing
else, and what follows the last of them in training is the end-of-turn token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from automem_jax.agent.grammar import OPERATIONS, Operation, Parsed, parse, spellings

FENCE = "```"
_FENCE = re.compile(r"```(?:[A-Za-z0-9_+-]*[ \t]*(?:\n|\Z))?")


@dataclass(frozen=True)
class CleanTurn:
    """A cleaned turn. `spans` are the operations' character spans in `text`, in order.

    `reason` is None where the turn may be trained on; else `text` is not for use: it holds
    no_memory_operation, a fence, or a malformed operation, or what was taken away made the rest read
    differently (changed_operations).
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    reason: str | None = None


def vocabulary_of(header: Mapping[str, Any]) -> dict[str, str]:
    """How the template of a trace (its header) writes operations: spelling -> operation."""
    return spellings((header.get("template") or {}).get("operations"))


def drop_fences(text: str, vocabulary: Iterable[str] = OPERATIONS) -> str:
    """Takes out code fences (and their language word) that stand outside operations."""
    inside = [(o.start, o.end) for o in parse(text, vocabulary).operations]
    kept, position = [], 0
    for match in _FENCE.finditer(text):
        if not any(start < match.end() and match.start() < end for start, end in inside):
            kept.append(text[position : match.start()])
            position = match.end()
    return "".join(kept) + text[position:]


def cut_at_done(text: str, vocabulary: Iterable[str] = OPERATIONS) -> str:
    """What stands before the first DONE."""
    done_start = parse(text, vocabulary).done_start
    return text if done_start is None else text[:done_start]


def strip_actions(text: str, vocabulary: Iterable[str] = OPERATIONS) -> str:
    """Takes every ACTION out; operations before and after stay."""
    for start, end in reversed(parse(text, vocabulary).action_spans):
        text = text[:start] + text[end:]
    return text


def trim_after_last_operation(text: str, vocabulary: Iterable[str] = OPERATIONS) -> str:
    """Cuts the text where its last operation ends; a text without operations becomes empty."""
    operations = parse(text, vocabulary).operations
    return text[: operations[-1].end] if operations else ""


STEPS = (drop_fences, cut_at_done, strip_actions, trim_after_last_operation)


def clean_turn(text: str, vocabulary: Iterable[str] = OPERATIONS) -> CleanTurn:
    """Cleans one assistant turn, of LOG or of PLAN.

    Example:
      "```\\n<|READ|>notes<|END|>\\n```\\nSo: <|ACTION|>east<|END|>" -> "<|READ|>notes<|END|>"
    """
    if not isinstance(vocabulary, Mapping):
        vocabulary = frozenset(vocabulary)
    parsed = parse(text, vocabulary)
    written = _meaning(parsed.operations)
    before = None
    while text != before and not _is_clean(text, parsed):
        before = text
        for step in STEPS:
            if _may_change(step, text, parsed):
                text = step(text, vocabulary)
                parsed = parse(text, vocabulary)
    operations = parsed.operations
    reason = None
    if not operations:
        reason = "no_memory_operation"
    elif FENCE in text:
        reason = "fence"
    elif parsed.errors:
        reason = "malformed"
    elif _meaning(operations) != written[: len(operations)]:
        reason = "changed_operations"
    return CleanTurn(text, tuple((o.start, o.end) for o in operations), reason)


def _is_clean(text: str, parsed: Parsed) -> bool:
    """Whether no step would change the text."""
    ends_well = bool(parsed.operations) and parsed.operations[-1].end == len(text)
    return ends_well and FENCE not in text and not parsed.done and not parsed.action_spans


def _may_change(step: object, text: str, parsed: Parsed) -> bool:
    """Whether a step can find something to take away; spares most texts most parses."""
    if step is drop_fences:
        return FENCE in text
    if step is cut_at_done:
        return parsed.done_start is not None
    if step is strip_actions:
        return bool(parsed.action_spans)
    return not parsed.operations or parsed.operations[-1].end < len(text)


def _meaning(operations: Iterable[Operation]) -> list[tuple[str, tuple[str, ...]]]:
    return [(o.op, o.args) for o in operations]
