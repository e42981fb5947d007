"""What a selection rests on: spread, coverage of prompts, signals, and examples of what was rejected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from automem_jax.report.page import Html, details, join, paragraph, preformatted, table, tag

_MOST_SHAPES = 30


def selection_details(report: Mapping[str, Any]) -> Html:
    """The part of a selection's report that is not counts; empty where there is none."""
    known = report.get("details") or {}
    parts = []
    spread = known.get("concentration")
    if spread:
        parts.append(
            paragraph(
                f"Spread: the episode used most gives {100 * spread['largest_episode_share']:.1f} % of the "
                f"examples, as if {spread['effective_episodes']:.1f} episodes were used equally."
            )
        )
    shapes = known.get("shapes")
    if shapes:
        rows = [
            (name, f"{counts['decisions']:,}", f"{counts['kept']:,}")
            for name, counts in list(shapes.items())[:_MOST_SHAPES]
        ]
        covered = sum(counts["kept"] > 0 for counts in shapes.values())
        caption = f"Prompt shapes: {covered} of {len(shapes)} are covered"
        parts.append(table(("shape", "decisions", "kept"), rows, caption))
    signals = known.get("signals")
    if signals:
        rows = [
            (
                name.replace("_", " "),
                f"{row['measured']:,}",
                _number(row["mean"]),
                f"{row['kept']:,}",
                _number(row["mean_kept"]),
            )
            for name, row in signals.items()
        ]
        head = ("signal", "decisions that have it", "mean", "of those kept", "mean of kept")
        parts.append(table(head, rows, "Signals"))
    for name, others in (known.get("agreement") or {}).items():
        rows = [(other.replace("_", " "), _number(value)) for other, value in others.items()]
        if rows:
            caption = f"Agreement of the {name} with other signals (rank correlation)"
            parts.append(table(("signal", "correlation"), rows, caption))
    shown = known.get("rejected_examples")
    if shown:
        parts.append(details("Examples of what was rejected", *map(_rejected, shown.items())))
    return join(parts)


def _rejected(item: tuple[str, list[dict[str, Any]]]) -> Html:
    reason, examples = item
    parts: list[object] = [tag("h4", reason.replace("_", " "))]
    for example in examples:
        place = f"{example['trace']}, step {example['t']}, {example['phase'].upper()}"
        values = json.dumps(example.get("values") or {}, ensure_ascii=False)
        parts += [paragraph(place, cls="quiet"), preformatted(example["text"]), paragraph(values)]
    return tag("div", *parts, cls="example")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
