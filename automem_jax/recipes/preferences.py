"""Preference pairs from a selection: what was kept against what was dropped at the same prompt.

The pairs file is described in training.objective_data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from automem_jax.files import atomic_file
from automem_jax.selection import load_examples
from automem_jax.selection.by_signals import TABLE_FILE
from automem_jax.selection.cleanup import clean_turn, vocabulary_of
from automem_jax.traces.schema import Trace, Turn
from automem_jax.traces.store import read_trace

REJECTED_PER_ANSWER = 4


def write_pairs(
    examples: str | Path,
    traces: Sequence[str | Path],
    path: str | Path,
    *,
    rejected_per_answer: int = REJECTED_PER_ANSWER,
) -> int:
    """Writes a pair for each kept answer and each of the commonest dropped ones at the same prompt.

    Dropped is a memory turn of `traces` that the clean-up leaves operations of, at the very prompt of a
    kept one, whose cleaned text no selection kept there. Where the selection left a table of scores
    (signals.jsonl), it must also score below what was kept: falling to a cap makes nothing bad. Both
    answers are cleaned. One trace is in memory at a time.

    Args:
      examples: the selection, examples.jsonl.
      traces: the traces that it was made from.

    Returns how many pairs there are; it may be none.
    """
    kept: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for example in load_examples(examples):
        prompt = example["messages"][:-1]
        text = example["messages"][-1]["content"]
        kept[_key(prompt)].setdefault(text, example)
    dropped = _dropped(kept, traces, Path(examples).parent)
    count = 0
    with atomic_file(path) as file:
        for key, answers in kept.items():
            ranked = sorted(
                dropped.get(key, {}).values(), key=lambda found: (-found["count"], found["text"])
            )
            for text, example in answers.items():
                for other in ranked[:rejected_per_answer]:
                    file.write(json.dumps(_pair(example, text, other)).encode() + b"\n")
                    count += 1
    return count


def _dropped(
    kept: dict[str, Any], traces: Sequence[str | Path], folder: Path
) -> dict[str, dict[str, Any]]:
    """By prompt, the dropped texts: how often each was written, and the tokens of the first."""
    scores = _scores(folder / TABLE_FILE)
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in sorted(map(str, traces)):
        trace = read_trace(path)
        vocabulary = vocabulary_of(trace.header)
        relative = os.path.relpath(path, folder)
        for place, turn in _turns(trace):
            if not turn.operations or turn.completion.error is not None:
                continue
            key = _key([{"role": m.role, "content": m.content} for m in turn.messages])
            if key not in kept:
                continue
            cleaned = clean_turn(turn.completion.text, vocabulary)
            if cleaned.reason is not None or cleaned.text in kept[key]:
                continue
            score = scores.get((relative, *place))
            least = [e["signals"].get("score") for e in kept[key].values()]
            if score is not None and None not in least and score >= min(least):
                continue
            new = {
                "text": cleaned.text,
                "spans": cleaned.spans,
                "ids": list(turn.completion.token_ids),
                "trace": path,
                "count": 0,
            }
            found[key].setdefault(cleaned.text, new)["count"] += 1
    return found


def _scores(table: Path) -> dict[tuple[str, int, str, int], float | None]:
    """Scores by trace, step, phase and turn; none without a table."""
    if not table.exists():
        return {}
    rows = load_examples(table)
    return {(r["trace"], r["t"], r["phase"], r["turn"]): r["score"] for r in rows}


def _turns(trace: Trace) -> Iterator[tuple[tuple[int, str, int], Turn]]:
    for step in trace.steps:
        for phase in step.phases:
            for index, turn in enumerate(phase.turns):
                yield (step.t, phase.phase, index), turn


def _key(messages: Sequence[dict[str, str]]) -> str:
    text = json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _pair(example: dict[str, Any], text: str, other: dict[str, Any]) -> dict[str, Any]:
    last = len(example["messages"]) - 1
    sampled = {entry["message"]: entry["ids"] for entry in example.get("token_ids", ())}
    return {
        "messages": example["messages"][:-1],
        "chosen": {
            "text": text,
            "supervised": [{"start": s["start"], "end": s["end"]} for s in example["supervised"]],
            "ids": sampled.get(last, []),
        },
        "rejected": {
            "text": other["text"],
            "supervised": [{"start": start, "end": end} for start, end in other["spans"]],
            "ids": other["ids"],
        },
        "weight": 1.0,
        "times_dropped": other["count"],
        "provenance": example["provenance"],
    }
