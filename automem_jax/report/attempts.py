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
      parents: all templates it was made from; two for a merge.
      against: the template it was gated against, its parent unless the ledger says otherwise.
      search_mean: mean progression on the search seeds, where a population search played it there.
      pooled: it joined a population search's pool.
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
    parents: Sequence[str] = ()
    against: str = ""
    search_mean: float | None = None
    pooled: bool = False


def attempts(ledger: Iterable[Mapping[str, Any]]) -> list[Attempt]:
    """The ledger's candidates in the order tried; its other rows are passed over.

    A member of a pool that is judged at the end has a second row, which adds to its first.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row in ledger:
        if row.get("type") == "candidate" and row.get("verdict") in ("kept", "dropped"):
            rows[row["template"]] = rows.get(row["template"], {}) | row
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
            parents=tuple(map(str, row.get("parents") or [row["parent"]])),
            against=str(row.get("against") or row["parent"]),
            search_mean=row.get("search_mean"),
            pooled=bool(row.get("pooled")),
        )
        for row in rows.values()
    ]
