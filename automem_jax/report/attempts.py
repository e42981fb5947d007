"""Loop 1's ledger as the report needs it: one attempt a candidate template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One proposed edit and what became of it.

    Attributes:
      template, parent: ids of the candidate and of what it was derived from.
      kept: the gate let it replace its parent.
      reason: of the verdict, or why it never reached the gate.
      edit: the edit's name; diagnosis: what the architect saw in the traces; expected: what it
        hoped for.
      changes: places of the template whose structure changed.
      diff: unified diff of the two templates.
      gate: figures of the gate (architect.gate.GateResult); empty where it was not reached.
    """

    template: str
    parent: str
    kept: bool
    reason: str
    edit: str
    diagnosis: str
    expected: str
    changes: Sequence[str]
    diff: str
    gate: Mapping[str, Any]


def attempts(ledger: Iterable[Mapping[str, Any]]) -> list[Attempt]:
    """The ledger's candidates in the order tried; its other rows are passed over."""
    return [
        Attempt(
            template=str(row["template"]),
            parent=str(row["parent"]),
            kept=row["verdict"] == "kept",
            reason=str(row.get("reason") or ""),
            edit=str(row.get("edit") or ""),
            diagnosis=str(row.get("diagnosis") or ""),
            expected=str(row.get("expected_effect") or ""),
            changes=row.get("structural_changes") or (),
            diff=str(row.get("diff") or ""),
            gate=row.get("gate") or {},
        )
        for row in ledger
        if row.get("type") == "candidate" and row.get("verdict") in ("kept", "dropped")
    ]
