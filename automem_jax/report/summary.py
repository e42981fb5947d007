"""The summary: what improved, by how much, how sure that is, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automem_jax.report.attempts import attempts
from automem_jax.report.cost import cost_sentence
from automem_jax.report.data import SCORES, scores
from automem_jax.report.figures import Point, dot_plot
from automem_jax.report.formats import few, hundred, interval, percent
from automem_jax.report.material import BEST, CONTROL, SPECIALIST, V0, Material, arm_style
from automem_jax.report.page import Html, escape, join, missing, paragraph, table, tag

NO_RESULTS = "No held-out results yet: run the evaluate stage."

# What is compared first, in this order, and what the comparison isolates.
QUESTIONS = (
    (SPECIALIST, V0, "Both loops together"),
    (BEST, V0, "Loop 1: the template alone"),
    (SPECIALIST, BEST, "Loop 2: training alone"),
    (SPECIALIST, CONTROL, "Selection against random decisions"),
    (V0, "window", "Memory at all: v0 against a window"),
    (SPECIALIST, "window", "Memory and both loops against a window"),
    (V0, "window_cot", "v0 against a window that reasons first"),
    (SPECIALIST, "window_cot", "Both loops against a window that reasons first"),
)


def summary(material: Material) -> Html:
    """What improved, by how much, how sure that is, and what it took."""
    arms = material.arms()
    if not arms:
        return join([missing(NO_RESULTS), _so_far(material)])
    taken = cost_sentence(material)
    parts = [
        _headline(material),
        glance(material),
        paragraph(taken) if taken else "",
        _base_line(material),
        tag(
            "div", *(_tile(name, arm, material.level()) for name, arm in arms.items()), cls="tiles"
        ),
        differences_figure(material),
    ]
    failed = {name: arm["failed"] for name, arm in arms.items() if arm.get("failed")}
    for name, seeds in failed.items():
        text = (
            f"{arm_style(name).title}: {len(seeds)} episodes failed and count at what they reached"
        )
        parts.append(paragraph(f"{text} (seeds {few(seeds)}).", cls="warning"))
    return join(parts)


def glance(material: Material) -> Html:
    """The comparisons in a small table: from, to, difference, interval, pairs."""
    arms = material.arms()
    rows = []
    for arm, baseline, words in QUESTIONS:
        row = material.difference(arm, baseline)
        if row and {arm, baseline} <= arms.keys():
            before, after = percent(arms[baseline]["mean"]), percent(arms[arm]["mean"])
            change = percent(row["mean"], True)
            rows.append((words, before, after, change, interval(row["interval"], True), row["n"]))
    if not rows:
        return Html("")
    head = ("what", "from %", "to %", "points", f"{material.level()} interval", "n")
    return table(head, rows, "Progression on held-out seeds: the same seeds on both sides")


def differences_figure(material: Material) -> Html:
    """Paired differences with intervals about a zero line."""
    points = []
    for arm, baseline, words in QUESTIONS:
        row = material.difference(arm, baseline)
        if row:
            style = arm_style(arm)
            note = f"{100 * row['mean']:+.1f}"
            points.append(
                Point(
                    words,
                    100 * row["mean"],
                    hundred(row["interval"]),
                    style.colour,
                    style.marker,
                    note=note,
                )
            )
    if not points:
        return Html("")
    figure = dot_plot(
        "differences",
        {"": points},
        "paired difference in progression, percentage points",
        f"Paired differences on the same held-out seeds, with {material.level()} bootstrap "
        "intervals; right of the line is better.",
        zero_line=True,
    )
    rows = [
        (row["arm"], row["baseline"], *scores(row), row["wins"], row["losses"], row["ties"])
        for row in (material.results or {}).get("paired_differences", [])
    ]
    columns = ("arm", "baseline", *SCORES, "better", "worse", "same")
    return join([figure, material.data.keep("differences", columns, rows)])


def _headline(material: Material) -> Html:
    arms = material.arms()
    row = material.difference(SPECIALIST, V0) if {SPECIALIST, V0} <= arms.keys() else None
    if row is None:
        return paragraph("No comparison of the specialist with v0 yet.", cls="lead")
    ends = row["interval"]
    first, last = arms[V0]["mean"], arms[SPECIALIST]["mean"]
    if ends and ends[0] > 0:
        verdict = "the interval lies above 0: an improvement"
    elif ends and ends[1] < 0:
        verdict = "the interval lies below 0: it got worse"
    else:
        verdict = "the interval includes 0: no improvement is shown"
    return paragraph(
        f"Progression went from {percent(first)} % with the hand-written memory (v0) to ",
        tag("strong", f"{percent(last)} %"),
        f" with the evolved template and the trained memory specialist, on {row['n']} held-out seeds. "
        f"Paired difference {percent(row['mean'], True)} percentage points, {material.level()} interval "
        f"{interval(ends, True)}: {verdict}.",
        cls="lead",
    )


def _tile(name: str, arm: Mapping[str, Any], level: str) -> Html:
    style = arm_style(name)
    return tag(
        "div",
        tag("span", style.title, cls="name"),
        tag("b", f"{percent(arm['mean'])} %"),
        tag("span", f"{level} {interval(arm.get('interval'))}"),
        tag("span", f"{arm['n']} episodes"),
        cls="tile",
        style=f"--tone: var({style.colour})",
    )


def differences_table(material: Material) -> Html:
    """Every paired difference of the results, with its standard error and who won how often."""
    asked = {(a, b): words for a, b, words in QUESTIONS}
    pairs = [(a, b) for a, b in asked if material.difference(a, b)]
    for row in (material.results or {}).get("paired_differences", []):
        pair = row["arm"], row["baseline"]
        if pair not in pairs and pair[::-1] not in pairs:
            pairs.append(pair)
    if not pairs:
        return missing("The results hold no paired differences.")
    rows = []
    for arm, baseline in pairs:
        row = material.difference(arm, baseline)
        rows.append(
            (
                _difference_name(arm, baseline, asked.get((arm, baseline))),
                row["n"],
                percent(row["mean"], True),
                percent(row["standard_error"]),
                interval(row["interval"], True),
                f"{row['wins']} / {row['losses']} / {row['ties']}",
            )
        )
    interval_of = f"{material.level()} interval"
    head = ("difference", "pairs", "mean", "± SE", interval_of, "better / worse / same")
    return table(head, rows, "Paired differences in progression, percentage points")


def _difference_name(arm: str, baseline: str, words: str | None) -> Html:
    pair = f"{arm_style(arm).title} − {arm_style(baseline).title}"
    return join([words, tag("div", pair, cls="quiet")]) if words else escape(pair)


def _base_line(material: Material) -> Html:
    checked = [
        t.done for t in material.trainings.values() if t.done and t.done.get("base_hash_after")
    ]
    if not checked:
        return Html("")
    same = all(done.get("base_hash_before") == done["base_hash_after"] for done in checked)
    if same:
        return paragraph(
            "The base's weights are the same before and after training (hashes below)."
        )
    return paragraph("The base's weights CHANGED in training; the figures are void.", cls="warning")


def _so_far(material: Material) -> Html:
    done = []
    tried = attempts(material.ledger)
    if tried:
        done.append(f"{len(tried)} template edits tried, {sum(a.kept for a in tried)} kept")
    for kind, selection in material.selections.items():
        done.append(f"{selection.report.get('count', '?')} decisions selected ({kind})")
    for kind, training in material.trainings.items():
        done.append(f"{kind} training {'finished' if training.done else 'under way'}")
    return paragraph("So far: " + "; ".join(done) + ".") if done else Html("")
