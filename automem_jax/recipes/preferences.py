"""Preference pairs from a selection: what was kept against what was dropped at the same prompt.

Each kept decision is held against one that the selection dropped at its very prompt, in turn, so that a
common mistake is met as often as it was made. Where the policy was asked again at the decision (branches
of alteration "resample"), an answer that did worse from there stands in place of a dropped one.
The pairs file is described in training.objective_data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from automem_jax.files import atomic_file
from automem_jax.selection import load_examples
from automem_jax.selection.by_signals import TABLE_FILE
from automem_jax.selection.cleanup import clean_turn, vocabulary_of
from automem_jax.traces.schema import Trace, Turn
from automem_jax.traces.store import read_trace


def write_pairs(
    examples: str | Path, traces: Sequence[str | Path], path: str | Path, *, rejected: int = 1
) -> int:
    """Writes `rejected` pairs for each kept decision that has something to be held against.

    Dropped is a memory turn of `traces` that the clean-up leaves operations of, at the very prompt of a
    kept one, whose cleaned text no selection kept there. Where the selection left a table of scores
    (signals.jsonl), it must also score below what was kept: falling to a cap makes nothing bad. Both
    answers are cleaned. One trace is in memory at a time.

    Args:
      examples: the selection, examples.jsonl.
      traces: the traces that it was made from.

    Returns how many pairs there are; it may be none.
    """
    kept: dict[str, dict[str, float | None]] = defaultdict(dict)  # prompt -> text -> lowest score
    for example in load_examples(examples):
        texts = kept[_key(example["messages"][:-1])]
        text, score = example["messages"][-1]["content"], example["signals"].get("score")
        known = texts.get(text)
        texts[text] = score if known is None or score is None else min(known, score)
    dropped = _dropped(kept, traces, Path(examples).parent)
    used: Counter[str] = Counter()
    count = 0
    with atomic_file(path) as file:
        for example in load_examples(examples):
            key = _key(example["messages"][:-1])
            others = _worse(example, kept[key]) or dropped.get(key, [])
            for _ in range(min(rejected, len(others))):
                other = others[used[key] % len(others)]
                used[key] += 1
                file.write(json.dumps(_pair(example, other)).encode() + b"\n")
                count += 1
    return count


def _worse(example: Mapping[str, Any], kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answers that did worse than a kept one when the policy was asked again."""
    worse = example["signals"].get("worse", ())
    return [{**one, "ids": []} for one in worse if one["text"] not in kept]


def _dropped(
    kept: Mapping[str, Mapping[str, float | None]], traces: Sequence[str | Path], folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """By prompt, the dropped answers in the order of the traces."""
    scores = _scores(folder / TABLE_FILE)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
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
            score, least = scores.get((relative, *place)), list(kept[key].values())
            if score is not None and None not in least and score >= min(least):
                continue
            ids = list(turn.completion.token_ids)
            found[key].append({"text": cleaned.text, "spans": cleaned.spans, "ids": ids})
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


def _pair(example: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    last = len(example["messages"]) - 1
    sampled = {entry["message"]: entry["ids"] for entry in example.get("token_ids", ())}
    return {
        "messages": example["messages"][:-1],
        "chosen": {
            "text": example["messages"][last]["content"],
            "supervised": [{"start": s["start"], "end": s["end"]} for s in example["supervised"]],
            "ids": sampled.get(last, []),
        },
        "rejected": {
            "text": other["text"],
            "supervised": [{"start": start, "end": end} for start, end in other["spans"]],
            "ids": other["ids"],
        },
        "weight": 1.0,
        "provenance": example["provenance"],
    }
