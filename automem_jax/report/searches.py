"""Sections on what loop 2 tried beyond one training: the recipe search and the online rounds."""

from __future__ import annotations

from typing import Any

from automem_jax.report.data import SCORES
from automem_jax.report.figures import Point, dot_plot
from automem_jax.report.formats import counted, hundred, number, percent
from automem_jax.report.material import Material
from automem_jax.report.page import Html, join, missing, paragraph, table


def recipes(material: Material) -> Html:
    """Every recipe with its data, losses rung by rung and the gate's verdict."""
    rows = material.recipes
    if not rows:
        return missing("No recipe search yet: run `automem recipes`.")
    proposals = [row for row in rows if row.get("type") == "proposal"]
    best = next(
        (row["best"] for row in reversed(rows) if row.get("type") in ("end", "round")), None
    )
    accepted = [row for row in proposals if row["verdict"] == "accepted"]
    head = f"{counted(len(accepted), 'recipe')} tried, {len(proposals) - len(accepted)} refused."
    parts: list[object] = [paragraph(head, f" Best: {best}." if best else "")]
    if rows[-1].get("type") != "end":
        parts.append(paragraph("The search has not come to its end.", cls="quiet"))
    elif costs := rows[-1].get("costs_in_all"):
        spent = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in costs.items())
        parts.append(paragraph(f"Spent: {spent}."))
    shown = [_recipe(row, rows) for row in accepted]
    columns = ("recipe", "why", "examples", "validation loss, rung by rung", "gate")
    if shown:
        parts.append(table(columns, shown, "Recipes", numeric=False))
    parts.append(_gates(material, rows))
    refused = [
        (row.get("recipe") or "-", row["reason"]) for row in proposals if row not in accepted
    ]
    if refused:
        parts.append(table(("recipe", "why not"), refused, "Refused", numeric=False))
    return join(parts)


def online(material: Material) -> Html:
    """Every online round: what it trained on, how far it went from the base, whether it was kept."""
    rounds = (material.online or {}).get("rounds")
    if not rounds:
        return missing("No online rounds yet: run `automem online`.")
    names = ("number", "kept", "examples", "steps", "loss", "kl", "played_tokens", "reason")
    data = [tuple(row.get(name) for name in names) for row in rounds]
    shown = [
        (number_, "kept" if kept else "dropped", *map(number, figures), reason or "-")
        for number_, kept, *figures, reason in data
    ]
    head = ("round", "verdict", "examples", "steps", "loss", "KL to base", "tokens played", "why")
    links = material.data.keep("online", names, data)
    return join([table(head, shown, "Online rounds"), links])


def _recipe(proposal: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[object, ...]:
    name = proposal["recipe"]
    own = [row for row in rows if row.get("recipe") == name]
    data = next((row for row in own if row["type"] == "data"), {})
    rungs = [row for row in own if row["type"] == "rung"]
    losses = ", ".join(number(row.get("validation_loss")) for row in rungs) or "-"
    gate = next((row for row in own if row["type"] == "gate"), None)
    failed = next((row["reason"] for row in own if row.get("verdict") == "failed"), "")
    verdict = f"{gate['verdict']}: {gate['reason']}" if gate else failed or "not reached"
    return (name, proposal.get("reason") or "-", number(data.get("examples")), losses, verdict)


def _gates(material: Material, rows: list[dict[str, Any]]) -> Html:
    played = [row for row in rows if row.get("type") == "gate" and row.get("gate")]
    if not played:
        return Html("")
    points = [
        Point(
            f"{row['recipe']} − {row['against']}",
            100 * row["gate"]["mean_difference"],
            hundred(row["gate"]["interval"]),
            "--arm-specialist" if row["verdict"] == "kept" else "--gate",
            "D",
            row["verdict"] != "kept",
            f"{percent(row['gate']['mean_difference'], True)}, {row['verdict']}",
        )
        for row in played
    ]
    figure = dot_plot(
        "recipes",
        {"": points},
        "paired difference on gate seeds, percentage points",
        "Recipes that reached the gate against the best before them, with the gate's intervals. "
        "Hollow: dropped.",
        zero_line=True,
    )
    data = [
        (row["recipe"], row["against"], row["verdict"], row["gate"]["n"],
         row["gate"]["mean_difference"], row["gate"].get("standard_error"), row["gate"]["interval"])
        for row in played
    ]  # fmt: skip
    links = material.data.keep("recipes", ("recipe", "against", "verdict", *SCORES), data)
    return join([figure, links])
