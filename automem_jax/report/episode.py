"""One episode, step by step: what the agent saw, wrote, read and did, with its files beside the map.

Every step is in the page; page.js makes a player of them. Without it they are a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from automem_jax.agent.grammar import READ_OPERATIONS
from automem_jax.agent.memory import Lines, replay
from automem_jax.report.material import BEST, CONTROL, SPECIALIST, V0, Material, readable_traces
from automem_jax.report.page import (
    Html,
    details,
    escape,
    join,
    missing,
    paragraph,
    preformatted,
    tag,
)
from automem_jax.traces.schema import PhaseRecord, Step, Trace, Turn

MAX_STEPS = 200
MAX_FILE_LINES = 200
_ARM_ORDER = (SPECIALIST, BEST, V0, CONTROL)
_TRACES_LOOKED_AT = 64


@dataclass(frozen=True)
class MarkedLine:
    """A line of a file as a step shows it.

    Attributes:
      text: its content.
      state: "kept", "added" or "removed" in this step.
      read: the step's conversations displayed it.
      by: "agent" or "system" for an added line, else "".
    """

    text: str
    state: str
    read: bool
    by: str


def episode(material: Material) -> Html:
    """A held-out win of the specialist that wrote and read; failing that, the nearest to it."""
    chosen = choose(material)
    if chosen is None:
        return missing("No finished episode yet: run the rollout, evolve or evaluate stage.")
    path, trace = chosen
    shown = trace.steps[:MAX_STEPS]
    before = replay(())
    sections = []
    for number, step in enumerate(shown):
        after = replay([*_as_changes(before), *step.memory])
        sections.append(_step(number, step, before, after))
        before = after
    parts = [_about(material, path, trace)]
    if len(trace.steps) > len(shown):
        parts.append(
            paragraph(
                f"The first {len(shown)} of {len(trace.steps)} steps are shown.", cls="warning"
            )
        )
    if shown:
        parts.append(_player(len(shown)))
    return tag("div", *parts, *sections, _ending(trace), cls="episode")


def choose(material: Material) -> tuple[Path, Trace] | None:
    """The most telling finished trace: of the first arm there is, won, with memory written and read.

    Among equals the first in order of file name, so that the choice repeats.
    """
    best: tuple[tuple, Path, Trace] | None = None
    for directory in _directories(material.workdir):
        for path, trace in islice(readable_traces(material, directory), _TRACES_LOOKED_AT):
            if trace.end is None or not trace.steps:
                continue
            score = _telling(trace)
            if best is None or score > best[0]:
                best = score, path, trace
            if score == (1.0, True, True):
                break
        if best is not None:
            return best[1:]
    return None


def marked_lines(
    before: Mapping[str, Lines], after: Mapping[str, Lines], step: Step
) -> dict[str, list[MarkedLine]]:
    """Every file's lines after a step, removed ones where they stood, each with what happened to it."""
    written = {line for _, operation in _operations(step) for line in operation["wrote"]}
    read = {line for _, operation in _operations(step) for line in operation["read"]}
    files = {}
    for name in [*after, *(n for n in before if n not in after)]:
        old, new = dict(before.get(name, ())), dict(after.get(name, ()))
        ranges = [r for phase in step.phases for r in phase.shown.get(name, ())]

        def seen(line: int, ranges=ranges) -> bool:
            return line in read or any(first <= line <= last for first, last in ranges)

        marked, waiting = [], list(old)
        for line, text in new.items():
            while waiting and waiting[0] not in new:
                marked.append(MarkedLine(old[waiting[0]], "removed", seen(waiting.pop(0)), ""))
            if line in old:
                waiting.remove(line)
                marked.append(MarkedLine(text, "kept", seen(line), ""))
            else:
                by = "agent" if line in written else "system"
                marked.append(MarkedLine(text, "added", seen(line), by))
        marked += [MarkedLine(old[n], "removed", seen(n), "") for n in waiting if n not in new]
        files[name] = marked
    return files


def _directories(workdir: Path) -> list[Path]:
    """Directories that may hold the episode to show, best first."""
    root = workdir / "traces"
    if not root.is_dir():
        return []
    heldout = [root / "evaluate" / arm for arm in _ARM_ORDER]
    return [*heldout, root / "evaluate", root]


def _telling(trace: Trace) -> tuple[float, bool, bool]:
    """(progression, the agent wrote a line that was displayed to it later, not failed)."""
    wrote: set[int] = set()
    used = False
    for step in trace.steps:
        for _, operation in _operations(step):
            used |= bool(wrote & set(operation["read"]))
            wrote |= set(operation["wrote"])
        for phase in step.phases:
            for ranges in phase.shown.values():
                used |= any(first <= line <= last for first, last in ranges for line in wrote)
    return trace.end["progression"], used, not trace.end["failed"]


def _operations(step: Step):
    for phase in step.phases:
        for turn in phase.turns:
            for operation in turn.operations:
                yield phase.phase, operation


def _as_changes(files: Mapping[str, Lines]) -> list[dict[str, Any]]:
    """Changes that rebuild these files, so that a step's own can follow."""
    changes: list[dict[str, Any]] = []
    for name, lines in files.items():
        changes.append({"op": "create", "file": name})
        changes.append({"op": "insert", "file": name, "at": 0, "lines": list(lines)})
    return changes


def _about(material: Material, path: Path, trace: Trace) -> Html:
    header, end = trace.header, trace.end
    template = header.get("template") or {}
    facts = (
        f"{header.get('arm')} on {header.get('task')}, seed {header.get('seed')}, "
        f"template {template.get('id')}: "
        f"progression {100 * end['progression']:.0f} % in {end['steps']} steps, ended by {end['end_reason']}"
    )
    place = path.relative_to(material.workdir).as_posix()
    instructions = header.get("instructions")
    return join(
        [
            paragraph(facts, ". ", tag("code", place)),
            details("Instructions of the environment", preformatted(instructions))
            if instructions
            else "",
        ]
    )


def _player(count: int) -> Html:
    slider = Html(f'<input type="range" min="0" max="{count - 1}" value="0" aria-label="Step">')
    return tag(
        "div",
        tag("button", "Previous", type="button"),
        tag("button", "Next", type="button"),
        slider,
        tag("output", "", aria_live="polite"),
        tag("span", "or the arrow keys", cls="quiet"),
        cls="player",
    )


def _step(number: int, step: Step, before: Mapping[str, Lines], after: Mapping[str, Lines]) -> Html:
    files = marked_lines(before, after, step)
    changed = sum(line.state != "kept" for lines in files.values() for line in lines)
    title = f"Step {step.t}: {step.action}"
    left = tag("div", *_percept(step), *(_phase(phase) for phase in step.phases), _action(step))
    right = tag(
        "div",
        tag("h4", f"Memory files after this step (lines changed: {changed})"),
        *(_file(name, lines, name in after) for name, lines in files.items()),
        "" if files else missing("No files."),
    )
    body = tag("div", left, right, cls="sides")
    return tag(
        "section", tag("h3", title), body, cls="step", id=f"step-{number}", data_label=f"Step {step.t}",
        aria_label=title,
    )  # fmt: skip


def _percept(step: Step) -> list[Html]:
    percept = step.percept
    facts = [f"progression {100 * percept['progression']:.0f} %"]
    if step.t:
        facts.insert(0, f"reward {percept['reward']:+g}")
        facts.insert(0, f"after {percept.get('action')}")
    if percept.get("unknown_action"):
        facts.append(f"unknown action {percept['unknown_action']}")
    parts = [tag("h4", "Observation"), paragraph(", ".join(facts), cls="quiet")]
    if percept.get("map"):
        parts.append(preformatted(percept["map"], cls="map"))
        parts.append(details("Text", preformatted(percept["long_text"])))
    else:
        parts.append(preformatted(percept["long_text"]))
    if percept.get("short_text"):
        parts.append(details("Status", preformatted(percept["short_text"])))
    return parts


def _phase(phase: PhaseRecord) -> Html:
    words = {
        "log": "LOG: what of the last step is worth keeping",
        "plan": "PLAN: consult, then act",
    }
    parts = [tag("h4", words.get(phase.phase, phase.phase))]
    known = 0
    for turn in phase.turns:
        if turn.index == 0:
            prompt = [
                part for m in turn.messages for part in (tag("h4", m.role), preformatted(m.content))
            ]
            parts.append(details("Prompt", *prompt))
        else:
            # The model's reply and the operations' answers stand above; this is their wording to it.
            news = [m.content for m in turn.messages[known:] if m.role != "assistant"]
            parts.append(details("What the model was told next", *map(preformatted, news)))
        known = len(turn.messages)
        parts.append(_turn(turn))
    return join(parts)


def _turn(turn: Turn) -> Html:
    completion = turn.completion
    speaker = {"memory": "memory model", "gameplay": "gameplay model (base)"}.get(
        turn.role, turn.role
    )
    text = completion.text if completion.text else "(nothing)"
    counts = f"{completion.prompt_tokens} prompt + {completion.completion_tokens} completion tokens"
    parts: list[object] = [paragraph(f"{speaker}, {counts}", cls="quiet"), preformatted(text)]
    if turn.operations:
        parts.append(
            tag("ul", *(tag("li", _operation(o)) for o in turn.operations), cls="operations")
        )
    if turn.stripped_action is not None:
        parts.append(
            paragraph(f"Action {turn.stripped_action} was stripped: it may not be taken here.")
        )
    reported = {operation["error"] for operation in turn.operations}
    errors = [error for error in turn.errors if error not in reported]
    if completion.error and completion.error not in errors:
        errors.append(completion.error)
    parts += [paragraph(tag("span", "error", cls="badge bad"), error) for error in errors]
    return tag("div", *parts, cls=f"turn {escape(turn.role)}")


def _operation(operation: Mapping[str, Any]) -> Html:
    name = str(operation["op"])
    if not operation["ok"]:
        badges = [tag("span", "error", cls="badge bad")]
    else:
        badges = [tag("span", "ok", cls="badge good")]
        if operation["redundant"]:
            badges.append(tag("span", "redundant", cls="badge"))
        if operation["empty"] and name in READ_OPERATIONS:
            badges.append(tag("span", "empty", cls="badge"))
    return join(
        [
            *badges,
            tag("code", " | ".join([name, *map(str, operation["args"])])),
            preformatted(operation["answer"]),
        ]
    )


def _action(step: Step) -> Html:
    parts: list[object] = [tag("strong", step.action)]
    if step.action_source == "repair":
        parts.append(f" (mended from {step.proposed})")
    elif step.action_source == "fallback":
        parts.append(" (fallback: the model gave none that could be used)")
    errors = [paragraph(error, cls="warning") for error in step.errors]
    return join([tag("h4", "Action"), paragraph(*parts), *errors])


def _file(name: str, lines: list[MarkedLine], exists: bool) -> Html:
    shown = lines[-MAX_FILE_LINES:]
    items = [_line(line) for line in shown]
    if len(lines) > len(shown):
        items.insert(0, tag("li", f"[{len(lines) - len(shown)} earlier lines]"))
    if not items:
        items = [tag("li", "empty", cls="missing")]
    title = name if exists else f"{name} (deleted)"
    return tag("div", tag("h4", tag("code", title)), tag("ol", *items), cls="file")


def _line(line: MarkedLine) -> Html:
    wrapper = {"added": "ins", "removed": "del"}.get(line.state)
    text = tag(wrapper, line.text) if wrapper else line.text
    marks = []
    if line.state != "kept":
        marks.append(f"{line.state} by the {line.by}" if line.by else line.state)
    if line.read:
        marks.append("read")
    mark = tag("span", ", ".join(marks), cls="mark") if marks else ""
    return tag("li", text, mark, cls="read" if line.read else None)


def _ending(trace: Trace) -> Html:
    final = trace.end.get("percept") or {}
    parts: list[object] = [tag("h3", "How it ended")]
    if final:
        reward = f"reward {final.get('reward') or 0:+g}, "
        parts.append(paragraph(f"{reward}{trace.end['end_reason']}", cls="quiet"))
        parts.append(preformatted(final.get("long_text", "")))
    if trace.end.get("error"):
        parts.append(paragraph(trace.end["error"], cls="warning"))
    return join(parts)
