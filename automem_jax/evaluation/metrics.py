"""How an agent uses its memory, counted from traces one episode at a time.

Shares are None where their denominator is 0: nothing was asked, so nothing is known. "Executed" is an
operation whose record says ok; writes and reads are the operations of those kinds, steps those acted
on. The measures:

valid_operation_share       executed operations / operations written, text that the grammar could not
                            read as one included
redundant_write_share       executed writes whose text the file already held / executed writes
contradicted_write_share    executed writes that state a number the observation denies / executed
                            writes; writes.contradicted_writes defines it
retracted_write_share       lines that the agent itself took back within 10 steps / lines it wrote;
                            writes.retracted_lines
empty_search_share          executed SEARCHes that found nothing / executed SEARCHes
empty_read_share            the same of all reads, SEARCH included
write_read_back_share       lines the agent wrote that a later operation returned or a PLAN prompt
                            displayed / lines it wrote, in finished episodes (selection/lineage.py)
write_asked_back_share      the same, counting operations only
writes_per_search_in_log    writes / SEARCHes, and / reads, asked for in LOG
memory_lines_per_step       lines, and characters, that memory grew by from the end of the first step
                            to the end of the last / steps between
unproductive_action_share   actions without effect or oscillating / steps; unproductive_actions
no_effect_action_share      actions after which the agent sees the same; without_effect
oscillating_action_share    actions that go back and forth; oscillating
invalid_action_share        steps whose action, as the model wrote it, was none of the task's and could
                            not be mended, or was refused by the environment / steps
repaired_action_share       steps whose action had to be mended / steps
rejected_actions_per_step   actions that guards sent back / steps
input_tokens_per_step       prompt tokens of all calls / steps; output_tokens_per_step likewise
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent.grammar import READ_OPERATIONS, WRITE_OPERATIONS, parse
from automem_jax.evaluation.writes import contradicted_writes, memory_growth, retracted_lines
from automem_jax.selection.cleanup import vocabulary_of
from automem_jax.selection.lineage import follow
from automem_jax.traces.schema import Step, Trace

# Clocks that tick whatever the agent does: "T:41", "Turn: 41", "Time 41".
_CLOCK = re.compile(r"\b(?:t|turns?|time)\s*[:=]?\s*\d+", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class CueProbe:
    """Asks whether a piece of early information went through memory to a later decision.

    Attributes:
      pattern: regular expression over the percept's long text; its groups, else the whole match, are
        the cue, which a line holds where it holds all of them. Case does not matter.
      early_steps: the cue is looked for at steps t < early_steps.
      decisive_from_end: the decision falls this many actions before the episode's end; memory seen
        after it does not count. 0 counts every step.
      win: progression at or above which the episode counts as won.
    """

    pattern: str
    early_steps: int = 3
    decisive_from_end: int = 0
    win: float = 1.0


# In Memento the wrong arm is punished two moves after the fork, the right one rewarded four after; in F4
# seven and thirteen. The first that fits counts.
PROBES: dict[str, CueProbe] = {
    "MiniHack-Memento-F4-*": CueProbe(
        pattern=r"(?s)(?=.*?(blue jelly|spotted jelly))(?=.*?(red mold|green mold))",
        decisive_from_end=7,
    ),
    "MiniHack-Memento-*": CueProbe(pattern=r"(blue jelly|lichen)", decisive_from_end=2),
}


def probe_for(task: str) -> CueProbe | None:
    """The cue probe known for a task, or None."""
    for glob, probe in PROBES.items():
        if fnmatch.fnmatchcase(task, glob):
            return probe
    return None


def share(part: float, whole: float) -> float | None:
    """part / whole, None for an empty whole."""
    return part / whole if whole else None


@dataclass
class BehaviourCounter:
    """Adds up memory behaviour over episodes; `add` each trace, then ask `result`."""

    counts: Counter = field(default_factory=Counter)

    def add(self, trace: Trace) -> None:
        """Counts one episode."""
        counts = self.counts
        counts["episodes"] += 1
        counts["steps"] += len(trace.steps)
        wrote = read = False
        for phase_name, operation in operations(trace):
            counts["operations"] += 1
            counts["valid"] += bool(operation["ok"])
            is_write = operation["op"] in WRITE_OPERATIONS
            is_read = operation["op"] in READ_OPERATIONS
            if operation["ok"]:
                counts["searches"] += operation["op"] == "SEARCH"
                counts["empty_searches"] += operation["op"] == "SEARCH" and bool(operation["empty"])
                wrote |= is_write
                read |= is_read
                counts["writes"] += is_write
                counts["redundant"] += is_write and bool(operation["redundant"])
                counts["reads"] += is_read
                counts["empty"] += is_read and bool(operation["empty"])
            if phase_name == "log":
                counts["log_writes"] += is_write
                counts["log_reads"] += is_read
                counts["log_searches"] += operation["op"] == "SEARCH"
        counts["wrote"] += wrote
        counts["read"] += read
        vocabulary = vocabulary_of(trace.header)
        for step in trace.steps:
            counts["not_model"] += step.action_source == "fallback"
            counts["repaired"] += step.action_source == "repair"
            for phase in step.phases:
                for turn in phase.turns:
                    # What the grammar could not even read as an operation is an invalid operation too.
                    counts["operations"] += len(parse(turn.completion.text, vocabulary).errors)
                    counts["rejected"] += turn.rejected is not None
                    counts["calls"] += 1
                    counts["prompt_tokens"] += turn.completion.prompt_tokens
                    counts["completion_tokens"] += turn.completion.completion_tokens
                    counts["failed_calls"] += turn.completion.error is not None
                    counts["cut_calls"] += turn.completion.finish_reason == "length"
        counts["unproductive"] += sum(unproductive_actions(trace))
        counts["no_effect"] += sum(without_effect(trace))
        counts["oscillating"] += sum(oscillating(trace))
        counts["invalid_actions"] += sum(invalid_actions(trace))
        counts["contradicted"] += contradicted_writes(trace)
        for names, values in (
            (("retracted", "lines"), retracted_lines(trace)),
            (("growth_lines", "growth_characters", "growth_steps"), memory_growth(trace)),
        ):
            counts.update(dict(zip(names, values, strict=True)))
        if trace.end is not None:
            for line in follow(trace, "").lines.values():
                if line.writer is not None:
                    counts["followed"] += 1
                    counts["read_back"] += line.first_read is not None
                    counts["asked_back"] += line.asked > 0

    def result(self) -> dict[str, float | int | None]:
        """The behaviour measures over everything added so far, by name."""
        c = self.counts
        return {
            "valid_operation_share": share(c["valid"], c["operations"]),
            "redundant_write_share": share(c["redundant"], c["writes"]),
            "contradicted_write_share": share(c["contradicted"], c["writes"]),
            "retracted_write_share": share(c["retracted"], c["lines"]),
            "empty_search_share": share(c["empty_searches"], c["searches"]),
            "empty_read_share": share(c["empty"], c["reads"]),
            "write_read_back_share": share(c["read_back"], c["followed"]),
            "write_asked_back_share": share(c["asked_back"], c["followed"]),
            "writes_per_search_in_log": share(c["log_writes"], c["log_searches"]),
            "writes_per_read_in_log": share(c["log_writes"], c["log_reads"]),
            "memory_lines_per_step": share(c["growth_lines"], c["growth_steps"]),
            "memory_characters_per_step": share(c["growth_characters"], c["growth_steps"]),
            "unproductive_action_share": share(c["unproductive"], c["steps"]),
            "no_effect_action_share": share(c["no_effect"], c["steps"]),
            "oscillating_action_share": share(c["oscillating"], c["steps"]),
            "invalid_action_share": share(c["invalid_actions"], c["steps"]),
            "repaired_action_share": share(c["repaired"], c["steps"]),
            "rejected_actions_per_step": share(c["rejected"], c["steps"]),
            "episodes_with_write_share": share(c["wrote"], c["episodes"]),
            "episodes_with_read_share": share(c["read"], c["episodes"]),
            "operations_per_step": share(c["operations"], c["steps"]),
            "input_tokens_per_step": share(c["prompt_tokens"], c["steps"]),
            "output_tokens_per_step": share(c["completion_tokens"], c["steps"]),
            "calls_per_step": share(c["calls"], c["steps"]),
            "fallback_action_share": share(c["not_model"], c["steps"]),
            "cut_completion_share": share(c["cut_calls"], c["calls"]),
            "failed_calls": c["failed_calls"],
        }


@dataclass
class CueCounter:
    """Adds up a cue probe over episodes; `add` each trace, then ask `result`."""

    probe: CueProbe
    counts: Counter = field(default_factory=Counter)

    def add(self, trace: Trace) -> None:
        """Counts one episode; episodes that never show the cue are left out of the shares."""
        self.counts["episodes"] += 1
        cue = find_cue(self.probe, trace)
        if cue is None:
            return
        logged, shown, asked = trace_cue(self.probe, trace, cue)
        won = (trace.end or {}).get("progression", 0.0) >= self.probe.win
        consulted = shown or asked
        counts = self.counts
        counts["with_cue"] += 1
        counts["logged"] += logged
        counts["shown"] += shown
        counts["asked"] += asked
        counts["read"] += consulted
        counts["won"] += won
        counts["read_won"] += consulted and won

    def result(self) -> dict[str, float | int | None]:
        """Shares of the episodes that showed the cue.

        cue_logged: the agent wrote a line holding it. cue_read: such a line stood before the agent
        in a PLAN no later than the decision, put there by a slot (cue_shown) or by its own read
        (cue_asked). win_given_read, win_given_not_read: share won among those.
        """
        c = self.counts
        return {
            "episodes_with_cue": c["with_cue"],
            "cue_logged": share(c["logged"], c["with_cue"]),
            "cue_read": share(c["read"], c["with_cue"]),
            "cue_shown": share(c["shown"], c["with_cue"]),
            "cue_asked": share(c["asked"], c["with_cue"]),
            "win_given_read": share(c["read_won"], c["read"]),
            "win_given_not_read": share(c["won"] - c["read_won"], c["with_cue"] - c["read"]),
        }


def operations(trace: Trace) -> Iterator[tuple[str, dict[str, Any]]]:
    """(phase, operation record) of every operation of an episode, in order."""
    for step in trace.steps:
        for phase in step.phases:
            for turn in phase.turns:
                for operation in turn.operations:
                    yield phase.phase, operation


def find_cue(probe: CueProbe, trace: Trace) -> tuple[str, ...] | None:
    """The cue's parts in the earliest percept that shows it, in lower case; None if none does."""
    pattern = re.compile(probe.pattern, re.IGNORECASE)
    for step in trace.steps:
        if step.t >= probe.early_steps:
            return None
        match = pattern.search(step.percept["long_text"])
        if match:
            return tuple(part.lower() for part in match.groups() or (match.group(),))
    return None


def trace_cue(probe: CueProbe, trace: Trace, cue: Sequence[str]) -> tuple[bool, bool, bool]:
    """(logged, shown by a slot in PLAN, asked for in PLAN) of the agent's lines that hold the cue."""
    lines: dict[str, set[int]] = {}  # ids by file: a shown range holds that file's lines only
    logged = shown = asked = False
    decisive = len(trace.steps) - probe.decisive_from_end
    for step in trace.steps:
        # A line exists from the step whose changes insert it; LOG comes before PLAN in a step.
        by_agent = {
            i for p in step.phases for t in p.turns for o in t.operations for i in o["wrote"]
        }
        for file, line in _lines_with(step, cue):
            if line in by_agent:
                lines.setdefault(file, set()).add(line)
                logged = True
        if step.t > decisive or not lines:
            continue
        for phase in step.phases:
            if phase.phase != "plan":
                continue
            shown |= any(
                first <= line <= last
                for file, ranges in phase.shown.items()
                for first, last in ranges
                for line in lines.get(file, ())
            )
            everywhere = set().union(*lines.values())
            asked |= any(
                line in everywhere
                for turn in phase.turns
                for operation in turn.operations
                for line in operation["read"]
            )
    return logged, shown, asked


def unproductive_actions(trace: Trace) -> list[bool]:
    """Per step, whether its action had no effect or was part of going back and forth."""
    pairs = zip(without_effect(trace), oscillating(trace), strict=True)
    return [still or swinging for still, swinging in pairs]


def without_effect(trace: Trace) -> list[bool]:
    """Per step, whether its action changed nothing the agent can see.

    Never where it brought a reward, new progression or the end. Else as the agent's typed comparison
    says (percept's "changed": clocks and what moves by itself left out); where a trace has none, true
    where the next percept's texts equal this one's, clocks aside: a lower bound.
    """
    percepts = _percepts(trace)
    verdicts = []
    for before, after in zip(percepts, percepts[1:], strict=False):
        changed = after.get("changed")
        if changed is None:
            changed = _without_clock(before) != _without_clock(after)
        verdicts.append(not changed and not _gained(before, after))
    return verdicts


def oscillating(trace: Trace) -> list[bool]:
    """Per step, whether its action went back and forth without gain.

    Action t does where it and the three before it are a, b, a, b with a != b, or where the agent sees
    after it what it saw before action t - 1 and something else between (texts, clocks aside); in both
    cases with no reward, new progression or end from any of these actions.
    """
    percepts = _percepts(trace)
    actions = [step.action for step in trace.steps]
    texts = [_without_clock(percept) for percept in percepts]
    gains = [_gained(*pair) for pair in zip(percepts, percepts[1:], strict=False)]
    verdicts = []
    for t in range(len(gains)):
        a, b, c, d = actions[t - 3 : t + 1] if t >= 3 else (None, None, None, None)
        alternates = t >= 3 and a == c and b == d and a != b and not any(gains[t - 3 : t + 1])
        returns = (
            t >= 1 and texts[t + 1] == texts[t - 1] != texts[t] and not any(gains[t - 1 : t + 1])
        )
        verdicts.append(alternates or returns)
    return verdicts


def invalid_actions(trace: Trace) -> list[bool]:
    """Per step, whether the action that the model wrote was none of the task's, after all mends."""
    percepts = _percepts(trace)
    verdicts = []
    for t, step in enumerate(trace.steps):
        refused = t + 1 < len(percepts) and percepts[t + 1].get("unknown_action") is not None
        verdicts.append(refused or (step.action_source == "fallback" and step.proposed is not None))
    return verdicts


def behaviour(traces: Iterable[Trace]) -> dict[str, float | int | None]:
    """Memory behaviour over traces, read one at a time."""
    counter = BehaviourCounter()
    for trace in traces:
        counter.add(trace)
    return counter.result()


def _percepts(trace: Trace) -> list[dict[str, Any]]:
    """All percepts of an episode, the final one where the trace has it."""
    percepts = [step.percept for step in trace.steps]
    final = (trace.end or {}).get("percept")
    return [*percepts, final] if final else percepts


def _gained(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return bool(after["reward"] or after["done"] or after["progression"] != before["progression"])


def _lines_with(step: Step, cue: Sequence[str]) -> set[tuple[str, int]]:
    return {
        (change["file"], line_id)
        for change in step.memory
        if change["op"] == "insert"
        for line_id, text in change["lines"]
        if all(part in text.lower() for part in cue)
    }


def _without_clock(percept: dict[str, Any]) -> tuple[str, str]:
    texts = (percept["long_text"], percept["short_text"])
    long_text, short_text = (_SPACE.sub(" ", _CLOCK.sub("", text)) for text in texts)
    return long_text, short_text
