"""Sections on scores and behaviour: progression, behaviour table, the cue's way through memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.report.attempts import Attempt, attempts
from automem_jax.report.data import SCORES, scores
from automem_jax.report.figures import Point, dot_plot
from automem_jax.report.formats import hundred, interval, percent
from automem_jax.report.material import Material, arm_style
from automem_jax.report.page import Html, join, missing, paragraph, table
from automem_jax.report.summary import NO_RESULTS, differences_table

# Measure, words, kind of figure, and which way is better ("": neither as such).
_BEHAVIOUR = (
    ("valid_operation_share", "valid operations", "share", "higher"),
    ("redundant_write_share", "redundant writes", "share", "lower"),
    ("contradicted_write_share", "writes the observation contradicts", "share", "lower"),
    ("retracted_write_share", "lines taken back within 10 steps", "share", "lower"),
    ("write_read_back_share", "lines read back", "share", "higher"),
    ("write_asked_back_share", "lines asked for again", "share", "higher"),
    ("empty_search_share", "empty searches", "share", "lower"),
    ("empty_read_share", "empty reads and searches", "share", "lower"),
    ("writes_per_search_in_log", "writes per search in LOG", "ratio", ""),
    ("writes_per_read_in_log", "writes per read in LOG", "ratio", ""),
    ("unproductive_action_share", "unproductive actions", "share", "lower"),
    ("no_effect_action_share", "actions without effect", "share", "lower"),
    ("oscillating_action_share", "actions back and forth", "share", "lower"),
    ("invalid_action_share", "invalid actions", "share", "lower"),
    ("repaired_action_share", "mended actions", "share", "lower"),
    ("rejected_actions_per_step", "actions guards sent back, a step", "ratio", ""),
    ("memory_lines_per_step", "memory growth a step, lines", "ratio", ""),
    ("memory_characters_per_step", "memory growth a step, characters", "ratio", ""),
    ("episodes_with_write_share", "episodes with a write", "share", ""),
    ("episodes_with_read_share", "episodes with a read", "share", ""),
    ("operations_per_step", "operations a step", "ratio", ""),
    ("input_tokens_per_step", "input tokens a step", "ratio", ""),
    ("output_tokens_per_step", "output tokens a step", "ratio", ""),
    ("calls_per_step", "model calls a step", "ratio", ""),
    ("fallback_action_share", "fallback actions", "share", "lower"),
    ("cut_completion_share", "completions cut at the token limit", "share", "lower"),
    ("failed_calls", "failed model calls", "count", "lower"),
)

_CUE = (
    ("episodes_with_cue", "episodes that showed the cue", "count"),
    ("cue_logged", "cue logged by the agent", "share"),
    ("cue_read", "cue read by the decision", "share"),
    ("cue_shown", "… put there by the template", "share"),
    ("cue_asked", "… asked for by the agent", "share"),
    ("win_given_read", "won, given cue read", "share"),
    ("win_given_not_read", "won, given cue not read", "share"),
)


def progression(material: Material) -> Html:
    """v0, candidate templates as gated, then the arms on held-out seeds, top to bottom."""
    arms = material.arms()
    tried = [a for a in attempts(material.ledger) if a.gate]
    if not arms and not tried:
        return missing("No scores yet: run the evolve or evaluate stage.")
    level = material.level()
    heldout = []
    for name, arm in arms.items():
        style = arm_style(name)
        points = hundred(arm.get("interval"))
        note = f"{100 * arm['mean']:.1f} %"
        heldout.append(
            Point(style.title, 100 * arm["mean"], points, style.colour, style.marker, note=note)
        )
    gate = _gate_points(tried)
    figure = dot_plot(
        "progression",
        {"Loop 1, on gate seeds": gate, "Held-out seeds": heldout},
        "progression, % (mean)",
        "Progression of every template tried and every arm, in the order of the experiment. "
        f"Bars are {level} bootstrap intervals; a candidate's is that of its paired difference to "
        "its parent, drawn around its mean. Hollow: dropped by the gate.",
        limits=(-2, 102),
    )
    parts = [figure, _progression_data(material, tried)]
    if not arms:
        parts.append(missing(NO_RESULTS))
    if not tried:
        parts.append(missing("No gate results: loop 1 has not run here."))
    rows = [
        (
            arm_style(name).title,
            arm["n"],
            percent(arm["mean"]),
            percent(arm.get("standard_error")),
            interval(arm.get("interval")),
            f"{arm['mean_steps']:.1f}" if arm.get("mean_steps") is not None else "-",
            ", ".join(
                f"{reason or 'none'} {n}" for reason, n in (arm.get("end_reasons") or {}).items()
            ),
        )
        for name, arm in arms.items()
    ]
    head = ("arm", "episodes", "mean %", "± SE", f"{level} interval", "steps", "endings")
    if rows:
        parts += [table(head, rows, "Progression on held-out seeds"), differences_table(material)]
    return join(parts)


def behaviour(material: Material) -> Html:
    """How each arm uses its memory."""
    arms = material.arms()
    if not arms:
        return missing(NO_RESULTS)
    measured = {name: arm.get("behaviour") or {} for name, arm in arms.items()}
    rows = behaviour_rows(measured)
    if not rows:
        return missing("The results hold no behaviour measures.")
    head = ("measure", *(arm_style(name).title for name in arms))
    columns = ("measure", *arms)
    values = [(key, *(m.get(key) for m in measured.values())) for key, *_ in _measures(measured)]
    links = material.data.keep("behaviour", columns, values)
    return join(
        [
            table(head, rows, "Memory behaviour on held-out episodes; - where nothing was counted"),
            links,
            paragraph(
                "An action is unproductive where the next observation is the same, clocks and what moves "
                "by itself aside, or where it goes back and forth, with no reward and no new "
                "progression.",
                cls="quiet",
            ),
        ]
    )


def behaviour_rows(measured: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of measures for several arms or runs; measures that none of them has are left out."""
    return [
        (
            f"{words} ({better} is better)" if better else words,
            *(_measure(values.get(key), kind) for values in measured.values()),
        )
        for key, words, kind, better in _measures(measured)
    ]


def _measures(measured: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    known = {key for key, *_ in _BEHAVIOUR}
    extra = sorted({key for values in measured.values() for key in values} - known)
    measures = [*_BEHAVIOUR, *((key, key.replace("_", " "), "ratio", "") for key in extra)]
    return [m for m in measures if any(m[0] in values for values in measured.values())]


def cue(material: Material) -> Html:
    """Whether early information went through memory to the decision that needed it."""
    measured = {name: arm["cue"] for name, arm in material.arms().items() if arm.get("cue")}
    if not measured:
        return missing(
            "The results hold no cue figures: they exist for tasks with a known cue, after evaluation."
        )
    rows = [
        (words, *(_measure(values.get(key), kind) for values in measured.values()))
        for key, words, kind in _CUE
    ]
    head = ("of the episodes that showed the cue", *(arm_style(name).title for name in measured))
    caption = "From the first sight of the cue to the decision"
    text = (
        "Without memory the decision is a coin toss. If only memory improved, reading rises between arms and "
        "winning given reading does not."
    )
    return join([table(head, rows, caption), paragraph(text, cls="quiet")])


def _progression_data(material: Material, tried: Sequence[Attempt]) -> Html:
    """Held-out scores, an arm a row, then the gate's differences, a candidate a row."""
    rows = [("arm", name, *scores(arm)) for name, arm in material.arms().items()]
    for attempt in tried:
        gate = attempt.gate
        row = (gate["n"], gate["mean_difference"], gate.get("standard_error"), gate["interval"])
        rows.append(("gate: candidate - parent", attempt.template, *row))
    return material.data.keep("progression", ("kind", "name", *SCORES), rows)


def _gate_points(tried: Sequence[Attempt]) -> list[Point]:
    """A parent's row before its first candidate, unless it stands there as a candidate itself."""
    points: list[Point] = []
    shown: set[str] = set()
    for attempt in tried:
        gate = attempt.gate
        if attempt.parent not in shown:
            value = 100 * gate["baseline_mean"]
            points.append(Point(attempt.parent, value, None, "--gate", note=f"{value:.1f} %"))
        value, base = 100 * gate["candidate_mean"], gate["baseline_mean"]
        ends = gate["interval"]
        # A mean lies in 0..100 %, which the interval of a difference does not know.
        around = hundred((max(0.0, base + ends[0]), min(1.0, base + ends[1]))) if ends else None
        colour = "--arm-best" if attempt.kept else "--gate"
        note = f"{value:.1f} %, {'kept' if attempt.kept else 'dropped'}"
        points.append(Point(attempt.template, value, around, colour, "s", not attempt.kept, note))
        shown |= {attempt.parent, attempt.template}
    return points


def _measure(value: float | None, kind: str) -> str:
    if value is None:
        return "-"
    if kind == "share":
        return f"{100 * value:.1f} %"
    return f"{value:,}" if kind == "count" else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
