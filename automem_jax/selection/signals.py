"""What one trace says of its memory decisions, before it is held against the other episodes.

Per decision (a turn of the agent model that holds memory operations):

  reason         why it cannot be trained on whatever it was worth (clean-up, failed operation), or None
  idle           its operations changed and told nothing
  novelty        writes: share of the new lines' word pairs that no line of memory held; reads: share of
                 the returned lines that this step had not shown yet. The lower of the two.
  denied         a written line states a number that the observation denies (claims.py)
  unseen         words of the written lines that no observation of this episode had shown; whether one
                 is a word of the task's observations at all is known when all episodes are read
  surprise       nats a token under the model that said it, where the trace has log-probabilities

Per episode, for what is measured across episodes (consequences.py): the discounted progression still
to come at each step, the steps at which each line came back, and failed actions with what was
written about them.

One pass over a trace, linear in its length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent.grammar import WRITE_OPERATIONS
from automem_jax.selection.claims import Claims, clauses, inserted_texts, is_wish
from automem_jax.selection.cleanup import clean_turn
from automem_jax.selection.filters import idle, invalid, is_memory_turn
from automem_jax.selection.lineage import EpisodeLineage, TurnKey, TurnRecord
from automem_jax.traces.schema import Step, Trace

REPEAT_STEPS = 20

_WORD = re.compile(r"[^\W_]+")


@dataclass(slots=True)
class Decision:
    """One memory decision; see the module's docstring.

    `text` is the cleaned turn; `operations` the names of those that stay; `sha256` of the verbatim text
    is added when the row is written. `shape` is the prompt's, see lineage.prompt_shape.
    """

    key: TurnKey
    text: str
    verbatim: str
    operations: tuple[str, ...]
    shape: str
    wrote: tuple[int, ...]
    read: tuple[int, ...]
    reason: str | None
    idle: str | None
    novelty: float | None
    denied: bool
    unseen: frozenset[str]
    surprise: float | None


@dataclass
class EpisodeSignals:
    """One finished episode.

    Attributes:
      lineage: without its turns.
      follows: [steps] discounted progression from each step's action on.
      levels: [steps] progression before each step's action.
      reads: line id -> steps at which it was returned, or first shown to PLAN, rising; the agent's lines
        only.
      about: line id -> action that had just failed when it was written.
      failures: action -> steps at which it had failed.
      words: of all observations. told: of the instructions.
    """

    lineage: EpisodeLineage
    decisions: list[Decision]
    follows: list[float]
    levels: list[float]
    reads: dict[int, list[int]] = field(default_factory=dict)
    about: dict[int, str] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)
    words: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()

    def repeated(self, action: str, t: int) -> bool:
        """Whether an action fails again in the REPEAT_STEPS steps after step t."""
        return any(t < step <= t + REPEAT_STEPS for step in self.failures.get(action, ()))


def episode_signals(
    trace: Trace,
    lineage: EpisodeLineage,
    *,
    horizon: int = 0,
    discount: float = 1.0,
    vocabulary: Iterable[str] | None = None,
) -> EpisodeSignals:
    """Measures one trace; `lineage` is `lineage.follow` of it.

    Args:
      horizon: steps after a read whose progression counts; 0: all to the end. discount: per step.
      vocabulary: of memory operations; None for the template's.
    """
    steps = trace.steps
    levels = [float(step.percept["progression"]) for step in steps]
    gains = _gains([*levels, lineage.progression])
    found = EpisodeSignals(lineage, [], _discounted(gains, horizon, discount), levels)
    found.told = frozenset(_words(str(trace.header.get("instructions", ""))))
    scan = _Scan(lineage, found, vocabulary or lineage.vocabulary)
    turns = iter(lineage.turns)
    for step in steps:
        scan.step(step, turns)
    for line in lineage.lines.values():  # a slot that shows a file shows it again at every step
        first = line.first_read
        if line.writer is not None and first is not None and first.via == "shown":
            found.reads[line.id] = sorted({first.at.t, *found.reads.get(line.id, ())})
    found.words = frozenset(scan.seen)
    return found


class _Scan:
    """What is remembered from step to step."""

    def __init__(
        self, lineage: EpisodeLineage, found: EpisodeSignals, vocabulary: Iterable[str]
    ) -> None:
        self.lineage, self.found, self.vocabulary = lineage, found, vocabulary
        self.seen: set[str] = set()
        self._last_text = ""
        self._claims = Claims()
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._live: dict[int, tuple[str, list[tuple[str, str]]]] = {}  # id -> file, word pairs
        self._cleaned: dict[str, Any] = {}

    def step(self, step: Step, turns: Iterable[TurnRecord]) -> None:
        percept, found = step.percept, self.found
        text = f"{percept['long_text']}\n{percept['short_text']}"
        if text != self._last_text:
            self.seen.update(_words(text))
            self._last_text = text
        self._claims.observe(percept)
        failed = None
        if percept.get("changed") is False and percept.get("action"):
            failed = percept["action"]
            found.failures.setdefault(failed, []).append(step.t)
        texts = inserted_texts(step)
        new: dict[int, float] = {}
        self._memory(step, new)
        displayed: set[int] = set()
        for phase in step.phases:
            for turn in phase.turns:
                record = next(turns)
                shown = set(record.read)
                displayed |= _in_ranges(shown, phase.shown)
                if record.operations and is_memory_turn(self.lineage, record):
                    self._decision(record, turn, texts, new, displayed, failed)
                for line in shown:
                    self._note_read(line, step.t)
                displayed |= shown

    def _note_read(self, line: int, t: int) -> None:
        entry = self.lineage.lines.get(line)
        if entry is not None and entry.writer is not None:
            steps = self.found.reads.setdefault(line, [])
            if not steps or steps[-1] != t:
                steps.append(t)

    def _memory(self, step: Step, new: dict[int, float]) -> None:
        """Plays the step's changes; `new`: share of each new line's word pairs that memory lacked."""
        for change in step.memory:
            if change["op"] == "insert":
                for number, text in change["lines"]:
                    pairs = _word_pairs(text)
                    unknown = sum(1 for pair in pairs if not self._pairs[pair])
                    new[number] = unknown / len(pairs) if pairs else 0.0
                    self._live[number] = change["file"], pairs
                    self._pairs.update(pairs)
        for change in step.memory:  # what a rewritten file held before is not new in it
            if change["op"] == "remove":
                for number in change["ids"]:
                    self._forget(number)
            elif change["op"] == "delete":
                gone = [n for n, (file, _) in self._live.items() if file == change["file"]]
                for number in gone:
                    self._forget(number)

    def _forget(self, number: int) -> None:
        for pair in self._live.pop(number, ("", []))[1]:
            self._pairs[pair] -= 1

    def _decision(
        self,
        record: TurnRecord,
        turn: Any,
        texts: Mapping[int, str],
        new: Mapping[int, float],
        displayed: set[int],
        failed: str | None,
    ) -> None:
        cleaned = self._clean(record.text)
        operations = record.operations[: len(cleaned.spans)]
        kept = TurnRecord(
            record.key, record.role, record.text, operations, record.failed, record.cut_off
        )
        reason = cleaned.reason or invalid(kept)
        if reason is None and len(cleaned.spans) > len(operations):
            reason = "not_executed"
        wrote, read = kept.wrote, kept.read
        parts = []
        if wrote:
            parts.append(max(new.get(line, 0.0) for line in wrote))
        if read:
            parts.append(sum(line not in displayed for line in read) / len(read))
        unseen: set[str] = set()
        denied = False
        for operation in operations:
            if not operation["ok"] or operation["op"] not in WRITE_OPERATIONS:
                continue
            denied = denied or self._claims.denied(operation, texts)
            for line in operation.get("wrote") or ():
                unseen |= self._unseen(texts.get(line, ""))
        if failed is not None:
            for line in wrote:
                self.found.about[line] = failed
        completion = turn.completion
        surprise = None
        if completion.logprobs:
            surprise = -sum(completion.logprobs) / len(completion.logprobs)
        self.found.decisions.append(
            Decision(
                key=record.key,
                text=cleaned.text,
                verbatim=record.text,
                operations=tuple(operation["op"] for operation in operations),
                shape=record.shape,
                wrote=wrote,
                read=read,
                reason=reason,
                idle=idle(kept),
                novelty=min(parts) if parts else None,
                denied=denied,
                unseen=frozenset(unseen),
                surprise=surprise,
            )
        )

    def _clean(self, text: str) -> Any:
        found = self._cleaned.get(text)
        if found is None:
            found = self._cleaned[text] = clean_turn(text, self.vocabulary)
        return found

    def _unseen(self, line: str) -> set[str]:
        words: set[str] = set()
        for clause in clauses(line):
            if not is_wish(clause):
                words.update(word for word in _words(clause) if word not in self.seen)
        return words


def _in_ranges(lines: set[int], shown: Mapping[str, Sequence[Sequence[int]]]) -> set[int]:
    """Of some lines, those that a prompt's ranges hold. An id is of one file only, but ranges may span
    ids of other files: a line of one that a slot shows in part may be taken for shown."""
    ranges = [r for of_file in shown.values() for r in of_file] if lines else []
    return {line for line in lines if any(first <= line <= last for first, last in ranges)}


def _gains(progressions: Sequence[float]) -> list[float]:
    """By how much each step's action raised the best progression so far."""
    best, gains = progressions[0], []
    for value in progressions[1:]:
        gains.append(max(0.0, value - best))
        best = max(best, value)
    return gains


def _discounted(gains: Sequence[float], horizon: int, discount: float) -> list[float]:
    """[t] = sum of discount^k gains[t + k] over 0 <= k < horizon (all where 0)."""
    total, sums = 0.0, [0.0] * len(gains)
    cut = discount**horizon if horizon else 0.0
    for t in range(len(gains) - 1, -1, -1):
        total = gains[t] + discount * total
        if horizon and t + horizon < len(gains):
            total -= cut * gains[t + horizon]
        sums[t] = total
    return sums


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if len(word) > 2 and not word.isdigit()]


def _word_pairs(text: str) -> list[tuple[str, str]]:
    words = _WORD.findall(text.casefold())
    return list(zip(["", *words], words, strict=False))
