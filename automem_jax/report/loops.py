"""Sections on the two loops: template edits, selected decisions, training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from automem_jax.report.attempts import Attempt, attempts
from automem_jax.report.chosen import selection_details
from automem_jax.report.figures import line_plot
from automem_jax.report.formats import counted, interval, percent
from automem_jax.report.lineage import lineage_tree, spend_and_looks
from automem_jax.report.material import Material, Selection, kind_style
from automem_jax.report.page import (
    Html,
    details,
    join,
    missing,
    paragraph,
    preformatted,
    table,
    tag,
)

MAX_DIFF_LINES = 400
_WINS = "better / worse / same"


def templates(material: Material) -> Html:
    """Every proposed edit as a diff, with its diagnosis, its gate figures and the verdict."""
    tried = attempts(material.ledger)
    if not tried:
        return missing("No template edits yet: run the evolve stage.")
    kept = sum(attempt.kept for attempt in tried)
    best = (material.best or {}).get("id")
    head = paragraph(
        f"{counted(len(tried), 'edit')} tried and {kept} kept.",
        f" Best template: {best}." if best else "",
    )
    parts = [head, lineage_tree(tried, best or ""), spend_and_looks(material.ledger)]
    return join([*parts, tag("h3", "Edits"), *(_attempt(attempt) for attempt in tried)])


def selection(material: Material) -> Html:
    """What was chosen to train on, what was not and why, and examples word for word."""
    if not material.selections:
        return missing("No selected decisions yet: run the select stage.")
    parts = [_counts(material)]
    for kind, chosen in material.selections.items():
        parts.append(tag("h3", f"{kind_title(kind)}: why decisions were not taken"))
        rejected = chosen.report.get("rejected") or {}
        rows = [(reason.replace("_", " "), f"{n:,}") for reason, n in rejected.items()]
        parts.append(
            table(("reason", "decisions"), rows) if rows else missing("None was rejected.")
        )
        parts.append(selection_details(chosen.report))
        parts.append(_examples(kind, chosen))
    return join(parts)


def training(material: Material) -> Html:
    """Loss curves, and what each training ended with."""
    if not material.trainings:
        return missing("No training yet: run the train stage.")
    series = {}
    for kind, run in material.trainings.items():
        rows = [row for row in run.metrics if "loss" in row and "step" in row]
        if rows:
            style = kind_style(kind)
            x, y = [row["step"] for row in rows], [row["loss"] for row in rows]
            series[kind_title(kind)] = (x, y, style.colour)
    parts = []
    if series:
        text = (
            "Loss on the chosen memory tokens alone. Specialist and control learn different texts, so their "
            "levels are not to be compared."
        )
        labels = ("optimizer step", "loss a supervised token, nats")
        rows = [
            (kind, row.get("step"), row.get("loss"))
            for kind, run in material.trainings.items()
            for row in run.metrics
        ]
        parts.append(line_plot("loss", series, labels, text))
        parts.append(material.data.keep("loss", ("training", "step", "loss"), rows))
    else:
        parts.append(missing("No step has been logged yet."))
    facts = ("items", "dropped", "shortened", "steps", "final_loss", "fill")
    words = (
        "decisions",
        "left out",
        "shortened",
        "optimizer steps",
        "final loss",
        "packing, % of tokens",
    )
    rows = []
    for kind, run in material.trainings.items():
        done = run.done or {}
        values = [_fact(name, done.get(name)) for name in facts]
        if not run.done:
            values[3] = f"{len(run.metrics)}, unfinished"
        rows.append((kind_title(kind), *values))
    parts.append(table(("training", *words), rows, "Trainings"))
    return join(parts)


def kind_title(kind: str) -> str:
    """A selection's or training's name in words."""
    known = {"lineage": "specialist (lineage)", "random": "control (random)"}
    if kind.partition("-")[0] == "signals":
        return f"specialist ({kind.replace('-', ' ')})"
    return known.get(kind, kind)


def _attempt(attempt: Attempt) -> Html:
    badge = f"badge {'good' if attempt.kept else 'bad'}"
    verdict = tag("span", "kept" if attempt.kept else "dropped", cls=badge)
    title = f"{attempt.template}: {attempt.edit}" if attempt.edit else attempt.template
    parts: list[object] = [tag("h3", verdict, title)]
    for words, text in (
        ("Verdict", attempt.reason),
        ("Diagnosis", attempt.diagnosis),
        ("Expected", attempt.expected),
        ("Measured", _measured(attempt)),
        ("Structure changed", ", ".join(map(str, attempt.changes))),
    ):
        if text:
            parts.append(paragraph(tag("strong", f"{words}: "), text))
    gate = attempt.gate
    if gate:
        row = (
            attempt.against,
            percent(gate["baseline_mean"]),
            percent(gate["candidate_mean"]),
            percent(gate["mean_difference"], True),
            interval(gate["interval"], True),
            gate["n"],
            f"{gate['wins']} / {gate['losses']} / {gate['ties']}",
        )
        level = f"{100 * gate['confidence']:g} % interval"
        head = ("against", "its %", "candidate %", "difference", level, "pairs", _WINS)
        parts.append(table(head, [row], "Gate"))
    else:
        parts.append(missing("It did not reach the gate."))
    parts.append(_diff(attempt.diff))
    return tag("article", *parts, cls="card")


def _measured(attempt: Attempt) -> str:
    """What the gate found of the expected effect."""
    gate = attempt.gate
    if gate:
        points = percent(gate["mean_difference"], True)
        ends = interval(gate["interval"], True) if gate["interval"] else "-"
        most = f" of {gate['most']}" if gate.get("most") else ""
        return f"{points} points, interval {ends}, over {gate['n']}{most} pairs of gate seeds"
    if attempt.search_mean is not None:
        return f"mean progression {percent(attempt.search_mean)} % on the search seeds, not gated"
    return ""


def _diff(text: str) -> Html:
    lines = text.splitlines()
    if not lines:
        return missing("No diff recorded.")
    shown = [tag("span", line, cls=_diff_class(line)) for line in lines[:MAX_DIFF_LINES]]
    if len(lines) > MAX_DIFF_LINES:
        shown.append(tag("span", f"[{len(lines) - MAX_DIFF_LINES} more lines]", cls="at"))
    kinds = [_diff_class(line) for line in lines]
    summary = f"Edit: {kinds.count('add')} added, {kinds.count('del')} removed lines"
    block = tag("pre", *shown, cls="diff")
    return tag("details", tag("summary", summary), block, open="open" if len(lines) <= 40 else None)


def _diff_class(line: str) -> str | None:
    if line.startswith(("@@", "+++", "---")):
        return "at"
    return {"+": "add", "-": "del"}.get(line[:1])


def _counts(material: Material) -> Html:
    reports = {kind: chosen.report for kind, chosen in material.selections.items()}
    phases = sorted({phase for report in reports.values() for phase in report.get("phases") or {}})
    rows: list[tuple[object, ...]] = []
    for words, name in (
        ("traces read", "traces"),
        ("unfinished traces left out", "unfinished"),
        ("memory decisions considered", "memory_turns"),
        ("selected", "count"),
        ("from how many episodes", "episodes_used"),
    ):
        rows.append((words, *(_number(report.get(name)) for report in reports.values())))
    for phase in phases:
        cells = []
        for report in reports.values():
            n, total = (report.get("phases") or {}).get(phase, 0), report.get("count") or 0
            cells.append(f"{n:,} ({100 * n / total:.0f} %)" if total else f"{n:,}")
        rows.append((f"of them in {phase.upper()}", *cells))
    for words, name in (
        ("operations in them", "operations"),
        ("missing for the same mix", "short"),
    ):
        cells = [_mix(report.get(name)) for report in reports.values()]
        if any(cell != "-" for cell in cells):
            rows.append((words, *cells))
    texts = [report.get("repeated_texts") or {} for report in reports.values()]
    rows.append(("distinct texts", *(_number(t.get("distinct")) for t in texts)))
    head = ("decisions", *(kind_title(kind) for kind in reports))
    return table(head, rows, "What was selected")


def _examples(kind: str, chosen: Selection) -> Html:
    if not chosen.examples:
        return missing("No examples on disk.")
    shown = []
    for example in chosen.examples:
        source = example.get("provenance") or {}
        messages = example.get("messages") or [{"content": ""}]
        place = (
            f"{str(example.get('phase', '?')).upper()}, seed {source.get('seed')}, step {source.get('t')}, "
            f"turn {source.get('turn')}"
        )
        if source.get("cleaned"):
            place += " (cleaned at its end)"
        facts = f"trace {source.get('trace')}, SHA-256 of the verbatim text {source.get('sha256')}"
        prompt = [
            part
            for message in messages[:-1]
            for part in (
                tag("h4", message.get("role", "")),
                preformatted(message.get("content", "")),
            )
        ]
        signals = example.get("signals") or {}
        shown.append(
            tag(
                "div",
                tag("h4", place),
                preformatted(messages[-1].get("content", "")),
                details("Prompt before it, source and signals", *prompt,
                        paragraph(tag("code", facts)), preformatted(json.dumps(signals, ensure_ascii=False))),
                cls="example",
            )
        )  # fmt: skip
    return details(f"{len(shown)} examples word for word ({kind_title(kind)})", *shown)


def _fact(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "fill":
        return percent(value)
    if isinstance(value, Mapping):
        return _mix(value)
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _mix(counts: Mapping[str, int] | None) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) if counts else "-"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,}"
