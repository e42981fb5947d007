"""Examples as they lie on disk: prompts word for word, cleaned turns, provenance; and the check of them."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.selection.by_signals import text_hash
from automem_jax.selection.cleanup import CleanTurn, clean_turn, vocabulary_of
from automem_jax.selection.lineage import TurnKey
from automem_jax.selection.scan import in_processes, without_collector
from automem_jax.traces.schema import Trace, Turn
from automem_jax.traces.store import read_trace


class SelectionError(ValueError):
    """Traces that may not be selected from, or a selection that does not match its traces."""


@dataclass(frozen=True)
class Candidate:
    """A decision that may become an example. `text` is the cleaned one."""

    trace: str
    key: TurnKey
    task: str
    text: str
    rank: float
    signals: Mapping[str, Any]

    @property
    def phase(self) -> str:
        return self.key.phase


def load_examples(path: str | Path) -> Iterator[dict[str, Any]]:
    """The examples of a file, in order."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def verify_examples(examples_path: str | Path, *, memory_ops: Iterable[str] | None = None) -> int:
    """Checks every example against its trace: the hash of the verbatim turn, prompt and cleaned text.

    Returns how many were checked.

    Raises:
      SelectionError: an example does not match; names its line and trace.
    """
    given = None if memory_ops is None else frozenset(memory_ops)
    root = Path(examples_path).parent
    read: tuple[str, Trace] | None = None
    count = 0
    for number, example in enumerate(load_examples(examples_path), start=1):
        source = example["provenance"]
        if read is None or read[0] != source["trace"]:
            read = source["trace"], read_trace(root / source["trace"])
        key = TurnKey(source["t"], source["phase"], source["turn"])
        place = f"{examples_path}:{number} ({source['trace']}, {key})"
        turns = _turns(read[1])
        turn = turns.get(key)
        if turn is None:
            raise SelectionError(f"{place}: the trace has no such turn; select again")
        if text_hash(turn.completion.text) != source["sha256"]:
            raise SelectionError(
                f"{place}: the trace's text has changed since it was selected; select again"
            )
        vocabulary = given or vocabulary_of(read[1].header)
        cleaned = clean_turn(turn.completion.text, vocabulary)
        body = _example_body(turn, cleaned, vocabulary) | {"token_ids": _token_ids(turns, key)}
        if any(example.get(name, body["token_ids"]) != value for name, value in body.items()):
            raise SelectionError(f"{place}: messages differ from the trace; select again")
        count += 1
    return count


def _turns(trace: Trace) -> dict[TurnKey, Turn]:
    return {
        TurnKey(step.t, phase.phase, index): turn
        for step in trace.steps
        for phase in step.phases
        for index, turn in enumerate(phase.turns)
    }


def example_lines(
    kept: Sequence[Candidate],
    out: Path,
    given: frozenset[str] | None,
    workers: int,
    tick: Callable[[int], None],
) -> Iterator[str]:
    by_trace: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in kept:
        by_trace[candidate.trace].append(candidate)
    copy_out = _CopyOut(str(out), given)
    chosen = list(by_trace.values())
    for number, lines in enumerate(in_processes(copy_out, chosen, by_trace, workers), start=1):
        yield from lines
        tick(number)


@dataclass(frozen=True)
class _CopyOut:
    """The example lines of what was chosen of one trace."""

    out: str
    given: frozenset[str] | None

    def __call__(self, chosen: Sequence[Candidate]) -> list[str]:
        with without_collector():
            return self._copy(chosen)

    def _copy(self, chosen: Sequence[Candidate]) -> list[str]:
        path = chosen[0].trace
        trace = read_trace(path, last_step=max(c.key.t for c in chosen))
        turns = _turns(trace)
        vocabulary = self.given or vocabulary_of(trace.header)
        lines = []
        for candidate in chosen:
            key, turn = candidate.key, turns[candidate.key]
            cleaned = clean_turn(turn.completion.text, vocabulary)
            if cleaned.reason is not None or cleaned.text != candidate.text:
                raise SelectionError(
                    f"{path}: {key} reads differently than when it was chosen; the trace has changed, "
                    "select again"
                )
            example = _example_body(turn, cleaned, vocabulary) | {
                "token_ids": _token_ids(turns, key),
                "weight": 1.0,
                "phase": key.phase,
                "provenance": {
                    "trace": os.path.relpath(path, self.out),
                    "seed": trace.header["seed"],
                    "t": key.t,
                    "phase": key.phase,
                    "turn": key.turn,
                    "sha256": text_hash(turn.completion.text),
                    "cleaned": cleaned.text != turn.completion.text,
                },
                "signals": candidate.signals,
            }
            lines.append(json.dumps(example, separators=(",", ":")))
        return lines


def _example_body(turn: Turn, cleaned: CleanTurn, vocabulary: Iterable[str]) -> dict[str, Any]:
    """Prompt verbatim and the cleaned turn; `history`: the cleaned form of earlier assistant turns, for
    the loss that trains on them too (a turn that the clean-up leaves nothing of is not listed)."""
    messages = [{"role": m.role, "content": m.content} for m in turn.messages]
    history = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            earlier = clean_turn(message["content"], vocabulary)
            if earlier.reason is None:
                history.append({"message": index, "text": earlier.text})
    last = len(messages)
    return {
        "messages": [*messages, {"role": "assistant", "content": cleaned.text}],
        "supervised": [{"message": last, "start": s, "end": e} for s, e in cleaned.spans],
        "history": history,
    }


def _token_ids(turns: Mapping[TurnKey, Turn], key: TurnKey) -> list[dict[str, Any]]:
    """The sampler's tokens of the assistant turns of an example, where the trace holds them: of the
    text as sampled, so what the clean-up took off the end is still at their end."""
    turn = turns[key]
    found, earlier = [], 0
    for index, message in enumerate(turn.messages):
        if message.role != "assistant":
            continue
        for number in range(earlier, key.turn):
            before = turns.get(TurnKey(key.t, key.phase, number))
            if before is not None and before.completion.text == message.content:
                found.append({"message": index, "ids": list(before.completion.token_ids)})
                earlier = number + 1
                break
    found.append({"message": len(turn.messages), "ids": list(turn.completion.token_ids)})
    return [entry for entry in found if entry["ids"]]
