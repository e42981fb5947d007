"""What an architect is told about a template's traces: scores, memory behaviour, use of each file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent.grammar import READ_OPERATIONS, WRITE_OPERATIONS
from automem_jax.agent.template import Template
from automem_jax.evaluation.metrics import BehaviourCounter, share, unproductive_actions
from automem_jax.evaluation.results import episode_result
from automem_jax.traces.schema import PhaseRecord, Step, Trace

_REASON_CHARS = 120
_MOST_TOLD = 12


@dataclass
class FileUse:
    """How one file was used.

    Attributes:
      episodes_written: episodes in which the agent wrote to it.
      writes, redundant: executed writes, and those that repeated what it held.
      plan_phases: PLANs in which it held at least one line.
      plan_consulted: of those, PLANs that displayed one of its lines (slot or read).
      plan_asked: of those, PLANs in which the agent's own read displayed one.
      max_lines: most lines it ever held.
    """

    episodes_written: int = 0
    writes: int = 0
    redundant: int = 0
    plan_phases: int = 0
    plan_consulted: int = 0
    plan_asked: int = 0
    max_lines: int = 0


@dataclass
class Brief:
    """Statistics of one template's traces on the search seeds.

    Attributes:
      template_id: whose traces these are.
      scores: progression by seed; failed episodes at what they reached.
      failed: seeds of failed episodes.
      behaviour: the measures of evaluation.metrics.
      log_phases, log_without_write, log_capped: LOG conversations, those that wrote nothing, those
        that the turn cap ended.
      plan_phases, plan_capped: PLAN conversations, those that the turn cap ended.
      quiet_logs, quiet_logs_without_write: LOGs after an action that changed nothing visible.
      files: use of each file by name.
      cuts: phases in which the token budget cut a slot or an answer, by its name.
      actions: actions by where they came from: "model", "repair", "fallback".
      rejections: actions that guards sent back, by reason.
    """

    template_id: str
    scores: dict[int, float] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)
    behaviour: dict[str, Any] = field(default_factory=dict)
    log_phases: int = 0
    log_without_write: int = 0
    log_capped: int = 0
    quiet_logs: int = 0
    quiet_logs_without_write: int = 0
    plan_phases: int = 0
    plan_capped: int = 0
    files: dict[str, FileUse] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    rejections: dict[str, int] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean progression; 0 without episodes."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else 0.0

    def written_share(self, file: str) -> float:
        """Share of episodes in which the agent wrote to `file`."""
        return share(self.files[file].episodes_written, self.episodes) or 0.0

    def consulted_share(self, file: str) -> float:
        """Share of PLANs with lines in `file` that displayed one; 1 where it was always empty."""
        use = self.files[file]
        return 1.0 if not use.plan_phases else use.plan_consulted / use.plan_phases

    def to_data(self) -> dict[str, Any]:
        """JSON-ready figures, means and shares included."""
        data = dataclasses.asdict(self)
        data["mean"] = self.mean
        for name, use in data["files"].items():
            use["written_share"] = self.written_share(name)
            use["consulted_share"] = self.consulted_share(name)
        return data


def make_brief(template: Template, traces: Iterable[Trace]) -> Brief:
    """Counts one template's traces, one at a time."""
    brief = Brief(template_id=template.id)
    brief.files = {name: FileUse() for name in template.files}
    behaviour = BehaviourCounter()
    log_turns = template.phases.log.max_turns
    plan_turns = template.phases.plan.max_turns
    for trace in traces:
        result = episode_result(trace)
        brief.scores[result.seed] = result.progression
        if result.failed:
            brief.failed.append(result.seed)
        behaviour.add(trace)
        quiet = [False, *unproductive_actions(trace)]  # of the action that led to step t
        contents = _Contents()
        wrote: set[str] = set()
        for step, was_quiet in zip(trace.steps, quiet, strict=False):
            contents.apply(step)
            _add(brief.actions, step.action_source)
            for phase in step.phases:
                for name in {cut["slot"] for cut in phase.cuts}:
                    _add(brief.cuts, name)
                if phase.phase == "log":
                    _count_log(brief, phase, log_turns, was_quiet)
                else:
                    _count_plan(brief, phase, plan_turns, contents)
                for turn in phase.turns:
                    if turn.rejected is not None:
                        _add(brief.rejections, turn.errors[-1][:_REASON_CHARS])
                    for operation in turn.operations:
                        if operation["op"] in WRITE_OPERATIONS and operation["ok"]:
                            use = _use(brief, operation["file"])
                            use.writes += 1
                            use.redundant += bool(operation["redundant"])
                            wrote.add(operation["file"])
            for name, ids in contents.ids.items():
                use = _use(brief, name)
                use.max_lines = max(use.max_lines, len(ids))
        for name in wrote:
            _use(brief, name).episodes_written += 1
    brief.behaviour = behaviour.result()
    return brief


class _Contents:
    """Line ids each file holds, kept up to date from a trace's changes."""

    def __init__(self) -> None:
        self.ids: dict[str, set[int]] = {}

    def apply(self, step: Step) -> None:
        for change in step.memory:
            kind, file = change["op"], change["file"]
            if kind == "delete":
                self.ids.pop(file, None)
            elif kind == "create":
                self.ids.setdefault(file, set())
            elif kind == "insert":
                self.ids.setdefault(file, set()).update(line_id for line_id, _ in change["lines"])
            elif kind == "remove":
                self.ids.get(file, set()).difference_update(change["ids"])


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _use(brief: Brief, file: str | None) -> FileUse:
    return brief.files.setdefault(file or "", FileUse())


def _count_log(brief: Brief, phase: PhaseRecord, max_turns: int, quiet: bool) -> None:
    wrote = any(
        o["ok"] and o["op"] in WRITE_OPERATIONS for turn in phase.turns for o in turn.operations
    )
    last = phase.turns[-1] if phase.turns else None
    brief.log_phases += 1
    brief.log_without_write += not wrote
    brief.quiet_logs += quiet
    brief.quiet_logs_without_write += quiet and not wrote
    brief.log_capped += bool(
        last and len(phase.turns) >= max_turns and not last.done and last.operations
    )


def _count_plan(brief: Brief, phase: PhaseRecord, max_turns: int, contents: _Contents) -> None:
    brief.plan_phases += 1
    capped = len(phase.turns) >= max_turns and phase.turns[max_turns - 1].action is None
    brief.plan_capped += capped
    read = {
        line
        for turn in phase.turns
        for o in turn.operations
        if o["op"] in READ_OPERATIONS
        for line in o["read"]
    }
    for name, ids in contents.ids.items():
        if not ids:
            continue
        use = _use(brief, name)
        shown = any(first <= i <= last for first, last in phase.shown.get(name, ()) for i in ids)
        asked = bool(read & ids)
        use.plan_phases += 1
        use.plan_consulted += shown or asked
        use.plan_asked += asked


def format_brief(brief: Brief, baseline: Mapping[int, float] | None = None) -> str:
    """The figures as short lines of text, for an architect's prompt.

    `baseline` gives another template's scores on the same seeds to compare with.
    """
    lines = [
        f"episodes: {brief.episodes}, mean progression {brief.mean:.4f}, failed {len(brief.failed)}",
        f"LOG conversations: {brief.log_phases}, without a write {brief.log_without_write}, "
        f"ended by the turn cap {brief.log_capped}",
        f"LOG after an action that changed nothing: {brief.quiet_logs}, without a write "
        f"{brief.quiet_logs_without_write}",
        f"PLAN conversations: {brief.plan_phases}, ended by the turn cap {brief.plan_capped}",
    ]
    for name, value in brief.behaviour.items():
        lines.append(f"{name}: {'none' if value is None else format(value, '.4g')}")
    for name, use in brief.files.items():
        lines.append(
            f"file {_quoted(name)}: written in {use.episodes_written} episodes, {use.writes} writes "
            f"({use.redundant} redundant), consulted in {use.plan_consulted} of {use.plan_phases} "
            f"PLANs that could (asked for in {use.plan_asked}), at most {use.max_lines} lines"
        )
    lines.append(f"actions by source: {_counts(brief.actions)}")
    lines.append(f"cut by the token budget: {_counts(brief.cuts)}")
    lines.append(f"sent back by guards: {_counts(brief.rejections)}")
    if baseline:
        shared = [brief.scores[s] - baseline[s] for s in brief.scores if s in baseline]
        if shared:
            lines.append(f"mean difference to the parent: {sum(shared) / len(shared):+.4f}")
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_TOLD]
    return "; ".join(f"{_quoted(name)}: {count}" for name, count in most) or "none"


def _quoted(name: str) -> str:
    """A name as a JSON string: the agent may have given it, and it is no word of ours."""
    return json.dumps(name[:_REASON_CHARS], ensure_ascii=False)
