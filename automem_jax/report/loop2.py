"""Sections on loop 2's outer questions: each signal's worth, the recipes tried, online rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automem_jax.report.material import Material, arm_style
from automem_jax.report.page import Html, join, missing, paragraph, table, tag
from automem_jax.report.sections import interval, percent


def attribution(material: Material) -> Html:
    """The specialists by what selected their decisions, the actions they wrote, and the base's logits."""
    found = material.read("attribution.json")
    if not isinstance(found, Mapping):
        return missing("Not asked yet: run the attribute stage.")
    rows = [
        (arm_style(name).title, percent(mean), interval(found["intervals"].get(name)))
        for name, mean in found["means"].items()
    ]
    parts = [table(("arm", "mean %", "interval"), rows, "Progression on held-out seeds")]
    for name, other in found.get("same_selection", {}).items():
        parts.append(paragraph(f"{name} selects what {other} does: the same specialist."))
    rows = [
        (
            f"{arm_style(row['arm']).title} less {arm_style(row['baseline']).title}",
            percent(row["mean"], True),
            interval(row["interval"], True) if row["interval"] else "-",
            f"{row['wins']} / {row['losses']}",
        )
        for row in found["paired_differences"]
    ]
    head = ("paired difference", "points", "interval", "better / worse")
    parts.append(table(head, rows, "The same seeds, arm against arm"))
    rows = [
        (
            arm_style(name).title,
            f"{row['turns']:,}",
            f"{row['emitted']:,}",
            "-" if row["rate"] is None else f"{100 * row['rate']:.2f} %",
            f"{row['stripped']:,}",
            f"{row['committed']:,}",
        )
        for name, row in found["actions_of_the_specialist"].items()
    ]
    head = ("specialist", "its turns", "with an action", "rate", "stripped", "taken")
    parts.append(table(head, rows, "Actions that a specialist wrote: the base alone may act"))
    logits = found["base_logits"]
    parts.append(
        paragraph(
            f"The base's logits, before, after and beside every adapter ({len(logits['hashes'])} times): "
            + ("the same bits." if logits["identical"] else "they differ."),
            cls=None if logits["identical"] else "warning",
        )
    )
    return join(parts)


def recipes(material: Material) -> Html:
    """The ledger of the recipe search and the online rounds."""
    parts = [*_search(material), *_rounds(material)]
    if not parts:
        return missing("Neither recipes nor online rounds were tried: `automem recipes`, `online`.")
    return join(parts)


def _search(material: Material) -> list[Html]:
    ledger = list(material.lines("recipes/ledger.jsonl"))
    if not ledger:
        return []
    rows = []
    for proposal in (row for row in ledger if row["type"] == "proposal"):
        own = [row for row in ledger if row.get("recipe") == proposal["recipe"]]
        rungs = [row for row in own if row["type"] == "rung"]
        gates = [row for row in own if row["type"] == "gate"]
        losses = [row["validation_loss"] for row in rungs if "validation_loss" in row]
        examples = [row["examples"] for row in own if row["type"] == "data" and "examples" in row]
        last = next((r for r in reversed(own) if r.get("verdict") not in (None, "accepted")), {})
        gate = gates[-1]["gate"] if gates else None
        rows.append(
            (
                proposal["recipe"] or f"proposal {proposal['number']}",
                proposal["iteration"],
                f"{examples[-1]:,}" if examples else "-",
                f"{losses[-1]:.4f}" if losses else "-",
                percent(gate["mean_difference"], True) if gate else "-",
                interval(gate["interval"], True) if gate and gate["interval"] else "-",
                str(last.get("verdict", "")),
                str(last.get("reason") or proposal.get("reason") or ""),
            )
        )
    head = (
        "recipe",
        "iteration",
        "examples",
        "held-out loss",
        "gate",
        "interval",
        "verdict",
        "why",
    )
    parts = [tag("h3", "Recipes"), table(head, rows, "Recipes that were proposed", numeric=False)]
    end = ledger[-1]
    if end["type"] == "end":
        costs = ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in end["costs_in_all"].items())
        parts.append(paragraph(f"Best: {end['best']}. Spent: {costs or 'nothing'}."))
    else:
        parts.append(paragraph("The search has not come to its end.", cls="quiet"))
    return parts


def _rounds(material: Material) -> list[Html]:
    found: Any = material.read("online.json")
    if not isinstance(found, Mapping):
        return []
    rows = [
        (
            row["number"],
            f"{row['examples']:,}",
            "-" if row["loss"] is None else f"{row['loss']:.4f}",
            "-" if row["kl"] is None else f"{row['kl']:.3f}",
            "kept" if row["kept"] else f"dropped: {row['reason']}",
        )
        for row in found["rounds"]
    ]
    head = ("round", "examples", "loss", "KL to the base, nats a token", "verdict")
    return [
        tag("h3", "Online rounds"),
        table(head, rows, f"Rounds; the last kept: {found['best']}"),
    ]
