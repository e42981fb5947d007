"""The section on what a specialist's gain is owed to: trained without each signal in turn."""

from __future__ import annotations

from typing import Any

from automem_jax.report.data import SCORES, scores
from automem_jax.report.figures import Point, dot_plot
from automem_jax.report.formats import hundred, interval, percent
from automem_jax.report.material import Material, arm_style
from automem_jax.report.page import Html, join, missing, paragraph, table

_SAME = (
    "The base's logits are the same bits with and without adapters, before and after: only the "
    "adapter differs between arms."
)
_DIFFERENT = (
    "The base's logits DIFFER between the checks; a difference between arms is not the adapter's."
)


def attribution(material: Material) -> Html:
    """Differences between specialists, what they wrote of actions, and whether the base stayed itself."""
    found = material.attribution
    if not found:
        return missing("No attribution yet: run `automem attribute`.")
    same = (found.get("base_logits") or {}).get("identical")
    parts = [_figure(material, found), _emissions(found)]
    for name, other in (found.get("same_selection") or {}).items():
        parts.append(paragraph(f"{name} selects what {other} does: the same specialist."))
    parts.append(paragraph(_SAME) if same else paragraph(_DIFFERENT, cls="warning"))
    return join(parts)


def _figure(material: Material, found: dict[str, Any]) -> Html:
    differences = found.get("paired_differences") or []
    rows = [row for row in differences if row["baseline"] in ("base_best", "control_best")] or list(
        differences
    )
    if not rows:
        return missing("attribution.json holds no differences.")
    groups: dict[str, list[Point]] = {}
    for row in rows:
        style = arm_style(row["arm"])
        groups.setdefault(f"against {arm_style(row['baseline']).title}", []).append(
            Point(
                style.title,
                100 * row["mean"],
                hundred(row["interval"]),
                style.colour,
                style.marker,
                note=percent(row["mean"], True),
            )
        )
    figure = dot_plot(
        "attribution",
        groups,
        "paired difference in progression, percentage points",
        f"What each specialist gains on the same held-out seeds, with {material.level()} intervals. A "
        "signal matters where the specialist trained without it gains less.",
        zero_line=True,
    )
    data = [(row["arm"], row["baseline"], *scores(row)) for row in differences]
    links = material.data.keep("attribution", ("arm", "baseline", *SCORES), data)
    shown = [
        (f"{row['arm']} − {row['baseline']}", percent(row["mean"], True),
         interval(row["interval"], True), row["n"], f"{row.get('wins', '-')}/{row.get('losses', '-')}")
        for row in differences
    ]  # fmt: skip
    head = ("difference", "points", f"{material.level()} interval", "pairs", "better/worse")
    return join([figure, links, table(head, shown, "Every difference")])


def _emissions(found: dict[str, Any]) -> Html:
    emissions = found.get("actions_of_the_specialist") or {}
    if not emissions:
        return Html("")
    counts = ("turns", "emitted", "stripped", "committed")
    rows = [
        (arm_style(name).title, *(f"{row.get(k, 0):,}" for k in counts),
         percent(row.get("rate")))
        for name, row in emissions.items()
    ]  # fmt: skip
    head = ("specialist", "memory turns", "wrote an action", "stripped", "taken", "rate, %")
    return table(head, rows, "Game actions that specialists wrote; none may be taken from them")
