"""What a memory decision was worth, measured across the episodes of its task.

Base rule: a written line that came back to the agent before success was a good write, and the read
that returned it was a good read. A lucky episode reads trivia back as well, so the rule is weighed by
what such lines are worth elsewhere.

Lines are grouped by their normalised text. For a group g of a task:

    difference(g) = mean progression of the episodes in which a line of g was read back
                  - mean progression of the episodes in which none was
    own(e)        = progression of the episode - mean progression of the task's other episodes
    credit(g, e)  = n / (n + PRIOR) * difference(g) + PRIOR / (n + PRIOR) * own(e)

with n the episodes in which g was read back. For n = 1 both terms are equal: a unique line falls
back to its own episode's outcome.

Trivia often comes back in the same read as the line that mattered. So the strongest groups are taken
out one after another, and the others are compared only among episodes that agree on those
(Mantel-Haenszel weights over the strata). A group that is never seen apart from a stronger one cannot
be told from it and keeps its plain difference.

The standard error is the pooled within-stratum deviation s / sqrt(W), W = sum of n1 n0 / (n1 + n0): with
one stratum the usual s sqrt(1/n1 + 1/n0). Where a group was read back in at least
MIN_EPISODES_TO_EXPLAIN episodes, its credit must lie a given number of standard errors above zero;
rarer lines cannot be told from luck and are judged by their own episode, as the base rule says.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from automem_jax.selection.lineage import EpisodeLineage, Line, TurnRecord

PRIOR = 2.0
MAX_EXPLAINING_GROUPS = 8
MIN_EPISODES_TO_EXPLAIN = 3

_DIGITS = re.compile(r"\d+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class GroupCredit:
    """One group of lines in one task.

    Attributes:
      episodes_read, episodes_not: in how many episodes a line of the group was read back, or none was.
      difference: progression with less without, other strong groups held equal.
      std_error: of `difference`; infinite where there is nothing to compare with.
    """

    text: str
    episodes_read: int
    episodes_not: int
    difference: float
    std_error: float

    @property
    def lower(self) -> float:
        return self.difference - self.std_error


@dataclass(frozen=True)
class Credit:
    """A decision's credit: `value`, its standard error, and the group it rests on with how many
    episodes read it back.

    `reason` says why the base rule gives nothing; then value is 0.
    """

    value: float = 0.0
    std_error: float = math.inf
    episodes_read: int = 0
    group: str = ""
    own: float = 0.0
    line: int = -1
    reason: str | None = None

    @property
    def lower(self) -> float:
        return self.value - self.std_error

    def may_be_chance(self, standard_errors: float) -> bool:
        """Whether a group that was read often enough to tell is not clearly above zero."""
        often = self.episodes_read >= MIN_EPISODES_TO_EXPLAIN
        return often and self.value - standard_errors * self.std_error <= 0


def normalised(text: str) -> str:
    """The text that groups a line with its like: lower case, numbers masked, spaces collapsed."""
    return _SPACE.sub(" ", _DIGITS.sub("#", text.lower())).strip()


def group_of(line: Line) -> str:
    """What a line is grouped by: its normalised text, and its mark where it has one."""
    return normalised(line.text) + line.mark


class CreditTable:
    """Credits of all groups of all tasks. Built from the lineages' outcomes, holds no lineage."""

    def __init__(self, episodes: Iterable[EpisodeLineage]):
        outcomes: dict[str, dict[str, float]] = defaultdict(dict)
        members: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for episode in episodes:
            outcomes[episode.task][episode.trace] = episode.progression
            for line in episode.credited_reads():
                members[episode.task][group_of(line)].add(episode.trace)
        self._outcomes = dict(outcomes)
        self.groups: dict[tuple[str, str], GroupCredit] = {}
        for task, by_episode in outcomes.items():
            for group in group_credits(by_episode, members[task]):
                self.groups[task, group.text] = group

    def own(self, episode: EpisodeLineage) -> float | None:
        """Progression less the mean of the task's other episodes; None where there is no other."""
        others = self._outcomes[episode.task]
        if len(others) < 2:
            return None
        rest = (sum(others.values()) - episode.progression) / (len(others) - 1)
        return episode.progression - rest

    def decision(self, episode: EpisodeLineage, turn: TurnRecord) -> Credit:
        """The credit of one turn: the best of the lines that it wrote or read (base rule first)."""
        if episode.success_step is None:
            return Credit(reason="no_success")
        own = self.own(episode)
        if own is None:
            return Credit(reason="no_baseline")
        lines = [episode.lines[i] for i in (*turn.wrote, *turn.read) if i in episode.lines]
        lines = [line for line in lines if line.writer is not None]
        if not lines:
            return Credit(own=own, reason="nothing_followed")
        if not episode.in_time(turn.key.t):
            return Credit(own=own, reason="after_success")
        came_back = [
            line
            for line in lines
            if line.first_read is not None and episode.in_time(line.first_read.at.t)
        ]
        if not came_back:
            return Credit(own=own, reason="never_read_back")
        return max(
            (self._line(episode, line, own) for line in came_back), key=lambda c: (c.lower, c.value)
        )

    def _line(self, episode: EpisodeLineage, line, own: float) -> Credit:
        group = self.groups[episode.task, group_of(line)]
        share = group.episodes_read / (group.episodes_read + PRIOR)
        value = share * group.difference + (1 - share) * own
        return Credit(value, group.std_error, group.episodes_read, group.text, own, line.id)


def group_credits(
    outcomes: Mapping[str, float], members: Mapping[str, set[str]]
) -> Sequence[GroupCredit]:
    """Credits of the groups of one task.

    Args:
      outcomes: progression by episode.
      members: by group, the episodes in which a line of it was read back.
    """
    strata: dict[str, int] = dict.fromkeys(outcomes, 0)
    credits = _compare(outcomes, members, strata)
    settled: dict[str, GroupCredit] = {}
    while len(settled) < MAX_EXPLAINING_GROUPS:
        strongest = max(
            (
                c
                for text, c in credits.items()
                if text not in settled
                and c.episodes_read >= MIN_EPISODES_TO_EXPLAIN
                and c.lower > 0
            ),
            key=lambda c: (c.lower, c.text),
            default=None,
        )
        if strongest is None:
            break
        settled[strongest.text] = strongest
        read = members[strongest.text]
        strata = {e: 2 * stratum + (e in read) for e, stratum in strata.items()}
        within = _compare(outcomes, members, strata)
        for text, credit in within.items():
            if text not in settled and math.isfinite(credit.std_error):
                credits[text] = credit
    return [settled.get(text, credit) for text, credit in credits.items()]


def _compare(
    outcomes: Mapping[str, float], members: Mapping[str, set[str]], strata: Mapping[str, int]
) -> dict[str, GroupCredit]:
    """Read against not read, inside each stratum; linear in the number of (group, episode) pairs."""
    count: dict[int, int] = defaultdict(int)
    total: dict[int, float] = defaultdict(float)
    for episode, stratum in strata.items():
        count[stratum] += 1
        total[stratum] += outcomes[episode]
    squares = sum((y - total[strata[e]] / count[strata[e]]) ** 2 for e, y in outcomes.items())
    deviation = math.sqrt(squares / max(1, len(outcomes) - len(count)))
    credits = {}
    for text, episodes in members.items():
        read_count: dict[int, int] = defaultdict(int)
        read_total: dict[int, float] = defaultdict(float)
        for episode in sorted(episodes):
            read_count[strata[episode]] += 1
            read_total[strata[episode]] += outcomes[episode]
        weight_sum = difference = 0.0
        for stratum, n1 in read_count.items():
            n0 = count[stratum] - n1
            if n0 == 0:
                continue
            weight = n1 * n0 / (n1 + n0)
            mean_not = (total[stratum] - read_total[stratum]) / n0
            difference += weight * (read_total[stratum] / n1 - mean_not)
            weight_sum += weight
        comparable = weight_sum > 0
        credits[text] = GroupCredit(
            text=text,
            episodes_read=len(episodes),
            episodes_not=len(outcomes) - len(episodes),
            difference=difference / weight_sum if comparable else 0.0,
            std_error=deviation / math.sqrt(weight_sum) if comparable else math.inf,
        )
    return credits
