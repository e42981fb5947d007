"""Follows every line the agent wrote to the reads that later returned it.

A line is "read back" when a later operation of the agent returns it, or when a slot displays it in the
first prompt of a PLAN phase. Only what happens before the episode's success can have helped it: the
success step is the last step whose action raised progression.

One pass over a trace, linear in its length.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from automem_jax.agent.grammar import parse
from automem_jax.selection.cleanup import vocabulary_of


@dataclass(frozen=True)
class TurnKey:
    """Names one turn of the agent model inside an episode."""

    t: int
    phase: str
    turn: int


@dataclass(frozen=True)
class ReadBack:
    """The first time a line came back to the agent.

    `via` is "read" (an operation of the turn `at` returned it) or "shown" (a slot of the PLAN prompt).
    """

    at: TurnKey
    via: Literal["read", "shown"]


@dataclass
class Line:
    """One line of memory. `writer` is None where the system wrote it (seed text, automatic files).

    `mark` sets it apart from lines of the same text, where those are true and this one is not.
    """

    id: int
    file: str
    text: str
    t: int
    writer: TurnKey | None = None
    first_read: ReadBack | None = None
    reads: int = 0
    asked: int = 0  # of the reads, those by an operation
    mark: str = ""


@dataclass(frozen=True)
class TurnRecord:
    """One turn of the agent model. `operations` as in the trace; `failed`: the call itself did;
    `cut_off`: the token limit ended the reply inside its last operation; `shape`: of the prompt of a
    turn with operations, see prompt_shape."""

    key: TurnKey
    role: str
    text: str
    operations: tuple[Mapping[str, Any], ...]
    failed: bool
    cut_off: bool
    shape: str = ""

    @property
    def wrote(self) -> tuple[int, ...]:
        """Ids of the lines that the operations wrote."""
        return tuple(i for operation in self.operations for i in operation.get("wrote") or ())

    @property
    def read(self) -> tuple[int, ...]:
        """Ids of the lines that the operations returned."""
        return tuple(i for operation in self.operations for i in operation.get("read") or ())


@dataclass
class EpisodeLineage:
    """The lineage of one finished episode.

    `success_step` is the last step whose action raised progression, None where nothing did. `trace` is
    the path as it was given. `two_model` tells whether a specialist ran the consulting turns.
    `vocabulary`: spelling -> operation of the template that was played.
    """

    trace: str
    episode: str
    seed: int
    task: str
    progression: float
    success_step: int | None
    two_model: bool
    lines: dict[int, Line] = field(default_factory=dict)
    turns: list[TurnRecord] = field(default_factory=list)
    vocabulary: Mapping[str, str] = field(default_factory=dict)

    def credited_reads(self) -> Iterator[Line]:
        """Lines the agent wrote that came back to it before the episode's success (or, in an episode
        without success, at any time)."""
        for line in self.lines.values():
            if (
                line.writer is not None
                and line.first_read is not None
                and self.in_time(line.first_read.at.t)
            ):
                yield line

    def in_time(self, t: int) -> bool:
        """Whether step `t` comes no later than the success (always, where there was none)."""
        return self.success_step is None or t <= self.success_step


def success_step(progressions: Sequence[float]) -> int | None:
    """The last step whose action raised progression.

    `progressions[t]` is the value the agent saw before acting at step t; the last entry is the final
    percept's. So [0, 0, 1] gives 1: the action of step 1 led to the 1.
    """
    best, last = (progressions[0] if progressions else 0.0), None
    for t, value in enumerate(progressions[1:]):
        if value > best:
            best, last = value, t
    return last


def follow(trace: Any, path: str) -> EpisodeLineage:
    """Builds the lineage of one finished trace (`traces.store.Trace`).

    Raises:
      ValueError: the trace has no end record.
    """
    if trace.end is None:
        raise ValueError(f"{path}: the episode is not finished; run the rollout again to finish it")
    progressions = [float(step.percept["progression"]) for step in trace.steps]
    progressions.append(float(trace.end["progression"]))
    header = trace.header
    episode = EpisodeLineage(
        trace=path,
        episode=str(header["episode"]),
        seed=int(header["seed"]),
        task=f"{header.get('env', '')}/{header.get('task', '')}",
        progression=float(trace.end["progression"]),
        success_step=success_step(progressions),
        two_model=False,
        vocabulary=vocabulary_of(header),
    )
    ids: dict[str, list[int]] = {}  # a file's line ids, rising
    for step in trace.steps:
        _remember_lines(episode, step, ids)
        for phase in step.phases:
            if phase.phase == "plan":
                _note_shown(episode, step.t, phase.shown, ids)
            for index, turn in enumerate(phase.turns):
                key = TurnKey(step.t, phase.phase, index)
                if phase.phase == "plan" and turn.role == "memory":
                    episode.two_model = True
                shape = ""
                if turn.operations:
                    shape = prompt_shape(phase.phase, index, turn.messages, bool(phase.shown))
                episode.turns.append(_follow_turn(episode, key, turn, shape))
    return episode


def prompt_shape(phase: str, turn: int, messages: Sequence[Any], shows_memory: bool) -> str:
    """What kind of prompt it is: phase, turn, whether memory is shown, and size (characters, as a
    power of two): "plan.1+memory.2^13"."""
    size = sum(len(message.content) for message in messages)
    shown = "+memory" if shows_memory else ""
    return f"{phase}.{min(turn, 3)}{shown}.2^{max(0, size - 1).bit_length()}"


def _remember_lines(episode: EpisodeLineage, step: Any, ids: dict[str, list[int]]) -> None:
    for change in step.memory:
        if change["op"] == "insert":
            for line_id, text in change["lines"]:
                episode.lines[line_id] = Line(line_id, change["file"], text, step.t)
                ids.setdefault(change["file"], []).append(line_id)


def _note_shown(
    episode: EpisodeLineage, t: int, shown: Mapping[str, Any], ids: Mapping[str, list[int]]
) -> None:
    at = TurnKey(t, "plan", 0)
    for file, ranges in shown.items():
        own = ids.get(file, [])
        for first, last in ranges:
            for line_id in own[bisect.bisect_left(own, first) : bisect.bisect_right(own, last)]:
                _note_read(episode.lines[line_id], ReadBack(at, "shown"))


def _follow_turn(episode: EpisodeLineage, key: TurnKey, turn: Any, shape: str) -> TurnRecord:
    for operation in turn.operations:  # in the order executed: a read sees what stands before it
        for line_id in operation.get("read") or ():
            line = episode.lines.get(line_id)
            if line is not None and line.writer is not None:
                _note_read(line, ReadBack(key, "read"))
        for line_id in operation.get("wrote") or ():
            if line_id in episode.lines:
                episode.lines[line_id].writer = key
    return TurnRecord(
        key=key,
        role=turn.role,
        text=turn.completion.text,
        operations=tuple(turn.operations),
        failed=turn.completion.error is not None,
        cut_off=turn.completion.finish_reason == "length"
        and _ends_open(turn.completion.text, episode.vocabulary),
        shape=shape,
    )


def _ends_open(text: str, vocabulary: Mapping[str, str]) -> bool:
    """Whether the last operation is not closed: then more text would be part of it."""
    operations = parse(text, vocabulary).operations
    more = parse(text + " x", vocabulary).operations
    return bool(operations) and more[-1].end > operations[-1].end


def _note_read(line: Line, read: ReadBack) -> None:
    line.reads += 1
    line.asked += read.via == "read"
    if line.first_read is None:
        line.first_read = read
