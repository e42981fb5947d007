"""Numbers that a written line states, held against those that the agent saw."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from automem_jax.agent.grammar import WRITE_OPERATIONS
from automem_jax.traces.schema import Step, Trace

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


class Claims:
    """Holds each step's writes against its observation; feed it the steps of one trace in order."""

    def __init__(self) -> None:
        self._current: dict[str, int] = {}
        self._previous: dict[str, int] = {}
        self._seen: set[str] = set()

    def observe(self, percept: Mapping[str, Any]) -> None:
        """The step's percept; comes before the step's operations."""
        self._previous, self._current = self._current, quantities(percept)
        self._seen |= self._current.keys()

    def denied(self, operation: Mapping[str, Any], texts: Mapping[int, str]) -> bool:
        """Whether an executed write states a number that the observation denies.

        Args:
          texts: of the lines that the step inserted, by id.
        """
        return any(
            value
            not in (
                self._current.get(name, 0),
                self._previous.get(name, self._current.get(name, 0)),
            )
            for line in operation["wrote"]
            for name, value in claimed_quantities(texts.get(line, ""), self._seen)
        )


def contradicted_writes(trace: Trace) -> int:
    """Executed writes that state a number which the agent's own observations deny.

    A percept's quantities are the lines "name: number" of its texts; one that an earlier percept
    showed and this one does not counts as 0 (an item used up). A written line claims "name: number",
    "name = number" or "name is number"; clauses about aims, needs and the past are not claims. The
    write is contradicted where a claim about a known quantity has neither the number of the percept
    the agent had before it nor that of the one before that: LOG may write down either.
    """
    count, claims = 0, Claims()
    for step in trace.steps:
        claims.observe(step.percept)
        texts = inserted_texts(step)
        count += sum(claims.denied(operation, texts) for operation in _writes(step))
    return count


def quantities(percept: Mapping[str, Any]) -> dict[str, int]:
    """The "name: number" lines of a percept's texts, names case-folded."""
    texts = f"{percept['long_text']}\n{percept['short_text']}"
    return {name.casefold(): int(value) for name, value in _QUANTITY.findall(texts)}


def claimed_quantities(line: str, known: set[str]) -> list[tuple[str, int]]:
    """What a written line says of known quantities."""
    claims = []
    for clause in clauses(line):
        if is_wish(clause):
            continue
        for name, value in _CLAIM.findall(clause):
            words = name.casefold().split()
            # The claim is about the longest known name that ends where the number begins.
            names = (" ".join(words[i:]) for i in range(len(words)))
            found = next((n for n in names if n in known), None)
            if found:
                claims.append((found, int(value)))
    return claims


def clauses(line: str) -> list[str]:
    """A line taken apart where one statement ends and the next begins."""
    return _CLAUSE.split(line)


def is_wish(clause: str) -> bool:
    """Whether a clause speaks of aims, needs or the past, not of what is."""
    return _WISH.search(clause) is not None


def inserted_texts(step: Step) -> dict[int, str]:
    """Texts of the lines that a step inserted, by id."""
    return {
        number: text
        for change in step.memory
        if change["op"] == "insert"
        for number, text in change["lines"]
    }


def _writes(step: Step) -> Iterator[Mapping[str, Any]]:
    for phase in step.phases:
        for turn in phase.turns:
            for operation in turn.operations:
                if operation["ok"] and operation["op"] in WRITE_OPERATIONS:
                    yield operation
