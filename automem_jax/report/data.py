"""The figures' numbers as files beside the page: CSV for spreadsheets, JSON for programs.

Texts in them come from models and environments: control characters become visible, and a text that a
spreadsheet would take for a formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automem_jax.files import write_atomically, write_json
from automem_jax.report.page import Html, join, tag, visible

_FORMULA = ("=", "+", "-", "@")


@dataclass
class DataFiles:
    """Tables kept for a page, by figure; `folder` is where the page's links look for them."""

    folder: str = "report_data"
    tables: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = field(default_factory=dict)

    def keep(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
        """Keeps a figure's table under its name; the line that links to its files.

        Cells are texts, numbers, booleans or None. A cell (low, high) fills two columns, which are
        named NAME_low and NAME_high for a column "NAME..".
        """
        self.tables[name] = (
            tuple(end for column in columns for end in _ends(column)),
            [tuple(_flat(columns, row)) for row in rows],
        )
        links = (
            tag("a", kind.upper(), href=f"{self.folder}/{name}.{kind}") for kind in ("csv", "json")
        )
        return tag("p", "Data: ", join(links, " "), cls="data")

    def write(self, beside: Path) -> None:
        """Writes every table as CSV and as JSON into the folder beside the page."""
        for name, (columns, rows) in self.tables.items():
            path = beside.parent / self.folder / name
            write_atomically(path.with_suffix(".csv"), _csv(columns, rows))
            table = [dict(zip(columns, row, strict=True)) for row in rows]
            write_json(path.with_suffix(".json"), {"figure": name, "rows": table})


def data_folder(page: str | os.PathLike) -> str:
    """The name of the folder of a page's data: report.html has report_data."""
    return f"{Path(page).stem}_data"


def scores(arm: Mapping[str, Any]) -> tuple[Any, ...]:
    """n, mean, standard error and interval of a summary or a paired difference."""
    return arm["n"], arm["mean"], arm.get("standard_error"), arm.get("interval")


SCORES = ("n", "mean", "standard_error", "interval..")


def _ends(column: str) -> tuple[str, ...]:
    if not column.endswith(".."):
        return (column,)
    return (f"{column[:-2]}_low", f"{column[:-2]}_high")


def _flat(columns: Sequence[str], row: Sequence[Any]) -> Iterable[Any]:
    for column, cell in zip(columns, row, strict=True):
        if column.endswith(".."):
            yield from cell or (None, None)
        else:
            yield visible(cell) if isinstance(cell, str) else cell


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(cell) for cell in row])
    return file.getvalue()


def _cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
