"""What became of the lines an agent wrote: denied by what it saw, taken back, or read again.

One pass over a trace, linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from automem_jax.agent.grammar import WRITE_OPERATIONS
from automem_jax.agent.memory_texts import normal
from automem_jax.traces.schema import Step, Trace

RETRACTED_WITHIN_STEPS = 10

_NAME = r"\b[A-Za-z][A-Za-z_]{0,30}(?: [A-Za-z_]{1,30}){0,2}"  # bounded: linear time on any line
_QUANTITY = re.compile(rf"^[\s*-]*({_NAME}): *(-?\d+)", re.MULTILINE)
_CLAIM = re.compile(rf"({_NAME}) *(?::|=| is | are ) *(-?\d+)")
_CLAUSE = re.compile(r"[;,.\n|()]|\band\b|\bbut\b")
# A clause with one of these speaks of what is wanted, not of what is.
_WISH = re.compile(
    r"\b(?:need|needs|want|goal|require|requires|cost|costs|least|most|until|plan|should|target|if"
    r"|when|was|were|before|after|max|maximum|limit)\b|[<>]",
    re.IGNORECASE,
)


def contradicted_writes(trace: Trace) -> int:
    """Executed writes that state a number which the agent's own observations deny.

    A percept's quantities are the lines "name: number" of its texts; one that an earlier percept
    showed and this one does not counts as 0 (an item used up). A written line claims "name: number",
    "name = number" or "name is number"; clauses about aims, needs and the past are not claims. The
    write is contradicted where a claim about a known quantity has neither the number of the percept
    the agent had before it nor that of the one before that: LOG may write down either.
    """
    count = 0
    previous: dict[str, int] = {}
    seen: set[str] = set()
    for step in trace.steps:
        current = quantities(step.percept)
        seen |= current.keys()
        texts = _inserted(step)
        for operation in _writes(step):
            claims = [
                claim
                for line in operation["wrote"]
                for claim in claimed_quantities(texts.get(line, ""), seen)
            ]
            count += any(
                value not in (current.get(name, 0), previous.get(name, current.get(name, 0)))
                for name, value in claims
            )
        previous = current
    return count


def quantities(percept: Mapping[str, Any]) -> dict[str, int]:
    """The "name: number" lines of a percept's texts, names case-folded."""
    texts = f"{percept['long_text']}\n{percept['short_text']}"
    return {name.casefold(): int(value) for name, value in _QUANTITY.findall(texts)}


def claimed_quantities(line: str, known: set[str]) -> list[tuple[str, int]]:
    """What a written line says of known quantities."""
    claims = []
    for clause in _CLAUSE.split(line):
        if _WISH.search(clause):
            continue
        for name, value in _CLAIM.findall(clause):
            words = name.casefold().split()
            # The claim is about the longest known name that ends where the number begins.
            names = (" ".join(words[i:]) for i in range(len(words)))
            found = next((n for n in names if n in known), None)
            if found:
                claims.append((found, int(value)))
    return claims


def retracted_lines(trace: Trace) -> tuple[int, int]:
    """(taken back, written): lines of the agent that it removed or replaced by another text within
    RETRACTED_WITHIN_STEPS steps, of all lines it wrote.

    Pruning takes nothing back: the step must hold a write of the agent to that file. A line whose
    text, case and punctuation aside, is written again in the same step stands.
    """
    written: dict[int, tuple[int, str]] = {}
    count = lines = 0
    for step in trace.steps:
        texts = _inserted(step)
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


def _inserted(step: Step) -> dict[int, str]:
    return {
        number: text
        for change in step.memory
        if change["op"] == "insert"
        for number, text in change["lines"]
    }
