"""What became of the lines an agent wrote: denied by what it saw, taken back, or read again.

One pass over a trace, linear in its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from automem_jax.agent.grammar import WRITE_OPERATIONS
from automem_jax.agent.memory_texts import normal
from automem_jax.selection.claims import contradicted_writes as contradicted_writes
from automem_jax.selection.claims import inserted_texts
from automem_jax.traces.schema import Step, Trace

RETRACTED_WITHIN_STEPS = 10


def retracted_lines(trace: Trace) -> tuple[int, int]:
    """(taken back, written): lines of the agent that it removed or replaced by another text within
    RETRACTED_WITHIN_STEPS steps, of all lines it wrote.

    Pruning takes nothing back: the step must hold a write of the agent to that file. A line whose
    text, case and punctuation aside, is written again in the same step stands.
    """
    written: dict[int, tuple[int, str]] = {}
    count = lines = 0
    for step in trace.steps:
        texts = inserted_texts(step)
        files = {operation["file"] for operation in _writes(step)}
        rewritten = {normal(text) for text in texts.values()}
        new = {i for operation in _writes(step) for i in operation["wrote"] if i in texts}
        lines += len(new)
        written |= {i: (step.t, texts[i]) for i in new}
        for change in step.memory:
            if change["op"] == "remove" and change["file"] in files:
                for number in change["ids"]:
                    t, text = written.pop(number, (None, ""))
                    recent = t is not None and step.t - t <= RETRACTED_WITHIN_STEPS
                    count += recent and (number in new or normal(text) not in rewritten)
    return count, lines


def memory_growth(trace: Trace) -> tuple[int, int, int]:
    """(lines, characters, steps): by how much all files grew from the end of the first step, seeds and
    all, to the end of the last, and the number of steps between."""
    files: dict[str, dict[int, int]] = {}
    sizes = []
    lines = characters = 0
    for step in trace.steps:
        for change in step.memory:
            if change["op"] == "insert":
                held = files.setdefault(change["file"], {})
                new = {number: len(text) for number, text in change["lines"]}
                held.update(new)
                lines += len(new)
                characters += sum(new.values())
            elif change["op"] in ("remove", "delete"):
                held = files.get(change["file"], {})
                gone = change["ids"] if change["op"] == "remove" else list(held)
                lost = [held.pop(number) for number in gone if number in held]
                lines -= len(lost)
                characters -= sum(lost)
        sizes.append((lines, characters))
    if len(sizes) < 2:
        return 0, 0, 0
    return sizes[-1][0] - sizes[0][0], sizes[-1][1] - sizes[0][1], len(sizes) - 1


def _writes(step: Step) -> Iterator[Mapping[str, Any]]:
    for phase in step.phases:
        for turn in phase.turns:
            for operation in turn.operations:
                if operation["ok"] and operation["op"] in WRITE_OPERATIONS:
                    yield operation
