"""Sections on scores and behaviour: summary, progression, behaviour table, the cue's way through memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.report.attempts import Attempt, attempts
from automem_jax.report.figures import Point, dot_plot
from automem_jax.report.material import BEST, CONTROL, SPECIALIST, V0, Material, arm_style
from automem_jax.report.page import Html, escape, join, missing, paragraph, table, tag

NO_RESULTS = "No held-out results yet: run the evaluate stage."

# What is compared first, in this order, and what the comparison isolates.
_QUESTIONS = (
    (SPECIALIST, V0, "Both loops together"),
    (BEST, V0, "Loop 1: the template alone"),
    (SPECIALIST, BEST, "Loop 2: training alone"),
    (SPECIALIST, CONTROL, "Selection against random decisions"),
    (V0, "window", "Memory at all: v0 against a window"),
    (SPECIALIST, "window", "Memory and both loops against a window"),
    (V0, "window_cot", "v0 against a window that reasons first"),
    (SPECIALIST, "window_cot", "Both loops against a window that reasons first"),
)

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


def summary(material: Material) -> Html:
    """What improved, by how much, and how sure that is."""
    arms = material.arms()
    if not arms:
        return join([missing(NO_RESULTS), _so_far(material)])
    level = _level(material)
    tiles = [_tile(name, arm, level) for name, arm in arms.items()]
    parts = [
        _headline(material),
        tag("div", *tiles, cls="tiles"),
        differences_figure(material),
        _differences_table(material),
        _base_line(material),
    ]
    failed = {name: arm["failed"] for name, arm in arms.items() if arm.get("failed")}
    for name, seeds in failed.items():
        text = (
            f"{arm_style(name).title}: {len(seeds)} episodes failed and count at what they reached"
        )
        parts.append(paragraph(f"{text} (seeds {_few(seeds)}).", cls="warning"))
    return join(parts)


def progression(material: Material) -> Html:
    """v0, candidate templates as gated, then the arms on held-out seeds, top to bottom."""
    arms = material.arms()
    tried = [a for a in attempts(material.ledger) if a.gate]
    if not arms and not tried:
        return missing("No scores yet: run the evolve or evaluate stage.")
    level = _level(material)
    heldout = []
    for name, arm in arms.items():
        style = arm_style(name)
        points = _hundred(arm.get("interval"))
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
    parts = [figure]
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
        parts.append(table(head, rows, "Progression on held-out seeds"))
    return join(parts)


def behaviour(material: Material) -> Html:
    """How each arm uses its memory."""
    arms = material.arms()
    if not arms:
        return missing(NO_RESULTS)
    measured = {name: arm.get("behaviour") or {} for name, arm in arms.items()}
    known = {key for key, *_ in _BEHAVIOUR}
    extra = sorted({key for values in measured.values() for key in values} - known)
    measures = [*_BEHAVIOUR, *((key, key.replace("_", " "), "ratio", "") for key in extra)]
    rows = [
        (
            f"{words} ({better} is better)" if better else words,
            *(_measure(values.get(key), kind) for values in measured.values()),
        )
        for key, words, kind, better in measures
        if any(key in values for values in measured.values())
    ]
    if not rows:
        return missing("The results hold no behaviour measures.")
    head = ("measure", *(arm_style(name).title for name in arms))
    return join(
        [
            table(head, rows, "Memory behaviour on held-out episodes; - where nothing was counted"),
            paragraph(
                "An action is unproductive where the next observation is the same, clocks and what moves "
                "by itself aside, or where it goes back and forth, with no reward and no new "
                "progression.",
                cls="quiet",
            ),
        ]
    )


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


def differences_figure(material: Material) -> Html:
    """Paired differences with intervals about a zero line."""
    points = []
    for arm, baseline, words in _QUESTIONS:
        row = material.difference(arm, baseline)
        if row:
            style = arm_style(arm)
            note = f"{100 * row['mean']:+.1f}"
            points.append(
                Point(
                    words,
                    100 * row["mean"],
                    _hundred(row["interval"]),
                    style.colour,
                    style.marker,
                    note=note,
                )
            )
    if not points:
        return Html("")
    level = _level(material)
    return dot_plot(
        "differences",
        {"": points},
        "paired difference in progression, percentage points",
        f"Paired differences on the same held-out seeds, with {level} bootstrap intervals; "
        "right of the line is better.",
        zero_line=True,
    )


def percent(value: float | None, signed: bool = False) -> str:
    """A share as percent with one decimal; "-" for unknown."""
    if value is None:
        return "-"
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def interval(ends: Sequence[float] | None, signed: bool = False) -> str:
    """An interval in percent; "-" for unknown."""
    return "-" if not ends else f"[{percent(ends[0], signed)}, {percent(ends[1], signed)}]"


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
        f"Paired difference {percent(row['mean'], True)} percentage points, {_level(material)} interval "
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


def _differences_table(material: Material) -> Html:
    asked = {(a, b): words for a, b, words in _QUESTIONS}
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
    level = _level(material)
    head = ("difference", "pairs", "mean", "± SE", f"{level} interval", "better / worse / same")
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
        around = _hundred((max(0.0, base + ends[0]), min(1.0, base + ends[1]))) if ends else None
        colour = "--arm-best" if attempt.kept else "--gate"
        note = f"{value:.1f} %, {'kept' if attempt.kept else 'dropped'}"
        points.append(Point(attempt.template, value, around, colour, "s", not attempt.kept, note))
        shown |= {attempt.parent, attempt.template}
    return points


def _level(material: Material) -> str:
    confidence = (material.results or {}).get("confidence")
    if confidence is None:
        confidence = ((material.config or {}).get("evaluation") or {}).get("confidence", 0.95)
    return f"{100 * confidence:g} %"


def _hundred(ends: Sequence[float] | None) -> tuple[float, float] | None:
    return (100 * ends[0], 100 * ends[1]) if ends else None


def _measure(value: float | None, kind: str) -> str:
    if value is None:
        return "-"
    if kind == "share":
        return f"{100 * value:.1f} %"
    return f"{value:,}" if kind == "count" else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _few(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:10]))
    return shown if len(values) <= 10 else f"{shown}, …"
