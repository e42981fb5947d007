"""What followed when a line came back to the agent, held against the other episodes of its task.

    advantage(e, t) = progression still to come in episode e from step t on (discounted, up to a horizon)
                      - the mean of that over the steps of the task's other episodes at the same
                        progression; over all their steps where none was there
    followed(line)  = (sum of advantage over the n steps at which it came back + PRIOR * like) / (n + PRIOR)
    followed(read)  = (advantage at its step + PRIOR * mean of like over what it returned) / (1 + PRIOR)
    followed(write) = mean over its lines; 0 for a line that never came back

`like` is the mean advantage of reads, in other episodes, of lines of the same group
(credit.group_of); 0 where there are none. So a line seen once says little by itself.

    avoided(line)   = mean over its reads of P(the action fails again) - whether it failed again

for a line written when an action had just failed: "again" is within signals.REPEAT_STEPS steps, P its share
of the task's other episodes' failures of that action.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from automem_jax.selection.credit import PRIOR, group_of
from automem_jax.selection.signals import REPEAT_STEPS, Decision, EpisodeSignals

_Sum = tuple[int, float]


class Consequences:
    """Measures decisions; holds sums over episodes, by task."""

    def __init__(self, episodes: Sequence[EpisodeSignals]) -> None:
        self._levels: dict[str, dict[float, _Sum]] = defaultdict(dict)
        self._repeats: dict[str, dict[str, _Sum]] = defaultdict(dict)
        self._groups: dict[str, dict[str, _Sum]] = defaultdict(dict)
        for episode in episodes:
            task = episode.lineage.task
            _add_all(self._levels[task], _level_sums(episode))
            _add_all(self._repeats[task], _repeat_sums(episode))
        for episode in episodes:
            _add_all(self._groups[episode.lineage.task], self._of(episode).groups())

    def measure(self, episode: EpisodeSignals) -> list[tuple[float, float | None]]:
        """(followed, avoided) of each of the episode's decisions."""
        own = self._of(episode)
        return [own.decision(decision) for decision in episode.decisions]

    def _of(self, episode: EpisodeSignals) -> _Episode:
        task = episode.lineage.task
        return _Episode(
            episode,
            _without(self._levels[task], _level_sums(episode)),
            _without(self._repeats[task], _repeat_sums(episode)),
            self._groups[task],
        )


class _Episode:
    """One episode against the others: their sums by level, by failed action, and by group (its own
    included, which `like` takes out)."""

    def __init__(
        self,
        episode: EpisodeSignals,
        levels: dict[float, _Sum],
        repeats: dict[str, _Sum],
        groups: dict[str, _Sum],
    ) -> None:
        self._episode, self._repeats, self._groups = episode, repeats, groups
        count, total = sum(n for n, _ in levels.values()), sum(s for _, s in levels.values())
        overall = total / count if count else None
        self._advantages = []
        for level, value in zip(episode.levels, episode.follows, strict=True):
            n, s = levels.get(level, (0, 0.0))
            base = s / n if n else overall
            self._advantages.append(0.0 if base is None else value - base)
        self._own: dict[int, _Sum] = {
            line: (len(steps), sum(self._advantages[t] for t in steps))
            for line, steps in episode.reads.items()
        }
        self._name = {line: group_of(episode.lineage.lines[line]) for line in episode.reads}
        self._own_groups = self.groups()

    def groups(self) -> dict[str, _Sum]:
        """The episode's own sums by group."""
        sums: dict[str, _Sum] = {}
        for line, part in self._own.items():
            _add(sums, self._name[line], part)
        return sums

    def decision(self, decision: Decision) -> tuple[float, float | None]:
        """(followed, avoided); avoided is None where nothing about a failed action came back."""
        episode = self._episode
        lines = episode.lineage.lines
        returned = [line for line in decision.read if line in self._own]
        values = []
        written = [line for line in decision.wrote if line in lines]
        if written:
            values.append(sum(map(self._line, written)) / len(written))
        if returned:
            like = sum(map(self._like, returned)) / len(returned)
            here = self._advantages[decision.key.t]
            values.append((here + PRIOR * like) / (1 + PRIOR))
        avoided = [
            self._avoided(line, t)
            for line in written
            if line in episode.about
            for t in episode.reads.get(line, ())
        ] + [self._avoided(line, decision.key.t) for line in returned if line in episode.about]
        known = [value for value in avoided if value is not None]
        return max(values, default=0.0), sum(known) / len(known) if known else None

    def _line(self, line: int) -> float:
        count, total = self._own.get(line, (0, 0.0))
        if not count:
            return 0.0
        return (total + PRIOR * self._like(line)) / (count + PRIOR)

    def _like(self, line: int) -> float:
        name = self._name[line]
        n, s = self._groups.get(name, (0, 0.0))
        own_n, own_s = self._own_groups[name]
        return (s - own_s) / (n - own_n) if n > own_n else 0.0

    def _avoided(self, line: int, t: int) -> float | None:
        action = self._episode.about[line]
        n, repeated = self._repeats.get(action, (0, 0.0))
        if not n:
            return None
        return repeated / n - self._episode.repeated(action, t)


def _level_sums(episode: EpisodeSignals) -> dict[float, _Sum]:
    sums: dict[float, _Sum] = {}
    for level, value in zip(episode.levels, episode.follows, strict=True):
        count, total = sums.get(level, (0, 0.0))
        sums[level] = count + 1, total + value
    return sums


def _repeat_sums(episode: EpisodeSignals) -> dict[str, _Sum]:
    sums: dict[str, _Sum] = {}
    for action, steps in episode.failures.items():
        again = sum(b - a <= REPEAT_STEPS for a, b in zip(steps, steps[1:], strict=False))
        sums[action] = len(steps), float(again)
    return sums


def _add(sums: dict, key: object, part: _Sum) -> None:
    count, total = sums.get(key, (0, 0.0))
    sums[key] = count + part[0], total + part[1]


def _add_all(sums: dict, parts: dict) -> None:
    for key, part in parts.items():
        _add(sums, key, part)


def _without(sums: dict, parts: dict) -> dict:
    return {
        key: (n - parts[key][0], s - parts[key][1]) if key in parts else (n, s)
        for key, (n, s) in sums.items()
    }
