"""The population of one search: templates with their progression on every search seed."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.agent.template import Template

BEST_SHARE = 0.5  # of the parents: the best on average


@dataclass(frozen=True)
class Member:
    """A template, its progression by search seed, and the ids of what it was made from."""

    template: Template
    scores: Mapping[int, float]
    parents: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean progression over the search seeds."""
        return sum(self.scores.values()) / max(1, len(self.scores))


def lead(member: Member, other: Member) -> float:
    """By how many standard errors a member is ahead of another on the search seeds, paired."""
    gaps = [score - other.scores.get(seed, 0.0) for seed, score in member.scores.items()]
    mean = statistics.fmean(gaps) if gaps else 0.0
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


class Pool:
    """Members in the order they joined; draws follow from `seed` and the proposal's number alone.

    Attributes:
      exhausted: ids of members the architect has no more proposals for.
    """

    def __init__(self, seed: int = 0):
        self.members: dict[str, Member] = {}
        self.exhausted: set[str] = set()
        self._seed = seed
        self._merged: set[frozenset[str]] = set()
        self._merge_due = False

    def add(self, member: Member) -> None:
        """A template joins; it may be merged with the others from now on."""
        self.members[member.template.id] = member

    def tried(self, row: Mapping[str, Any]) -> None:
        """Takes note of a proposal's row: a merge is due after a change that joined, and done once."""
        parents = row.get("parents") or ()
        if len(parents) > 1:
            self._merged.add(frozenset(parents))
            self._merge_due = False
        else:
            self._merge_due = bool(row.get("pooled"))

    def mean_of(self, name: str) -> float:
        """A member's mean progression on the search seeds."""
        return self.members[name].mean

    def front(self) -> dict[str, set[int]]:
        """Members no other member beats everywhere they win, with the seeds at which they do.

        A seed is won by all members with its highest progression. A member whose every won seed is also
        won by one of the others that stay is left out, the weakest on average first.
        """
        seeds = {seed for member in self.members.values() for seed in member.scores}
        winners: dict[int, set[str]] = {}
        for seed in seeds:
            top = max(member.scores.get(seed, 0.0) for member in self.members.values())
            winners[seed] = {
                name for name, m in self.members.items() if m.scores.get(seed, 0.0) == top
            }
        stay = {name for names in winners.values() for name in names}
        order = list(self.members)
        for name in sorted(stay, key=lambda n: (self.members[n].mean, -order.index(n))):
            if all(len(names & stay) > 1 for names in winners.values() if name in names):
                stay.discard(name)
        return {
            name: {seed for seed, names in winners.items() if name in names}
            for name in order
            if name in stay
        }

    def draw_parent(self, number: int) -> Member:
        """Half the time the best on average, else one of the front, the likelier the more seeds it wins.

        Members without further proposals are passed over. With one noisy episode a seed much of the
        front is luck, so that drawing from it alone wastes episodes (tools/compare_search.py).
        """
        rng = self._random("parent", number)
        front = {n: seeds for n, seeds in self.front().items() if n not in self.exhausted}
        if not front or rng.random() < BEST_SHARE:
            open_ = [m for n, m in self.members.items() if n not in self.exhausted]
            return max(open_ or self.members.values(), key=lambda member: member.mean)
        names = list(front)
        weights = [len(front[name]) for name in names]
        return self.members[rng.choices(names, weights)[0]]

    def pair_to_merge(self, number: int) -> tuple[Member, Member, Member] | None:
        """Two members of the front with a common ancestor, better one first; None unless one is due.

        Neither descends from the other, each wins seeds that the other loses, both do at least as well
        as the ancestor on average, and they were not merged before.
        """
        if not self._merge_due:
            return None
        front = self.front()
        pairs = []
        names = list(front)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                ancestor = self._common_ancestor(a, b)
                if ancestor is None or frozenset((a, b)) in self._merged:
                    continue
                if not (front[a] - front[b] and front[b] - front[a]):
                    continue
                if min(self.mean_of(a), self.mean_of(b)) < self.mean_of(ancestor):
                    continue
                pairs.append((a, b, ancestor))
        if not pairs:
            return None
        a, b, ancestor = max(pairs, key=lambda p: (len(front[p[0]] | front[p[1]]), p))
        first, second = sorted((self.members[a], self.members[b]), key=lambda m: -m.mean)
        return first, second, self.members[ancestor]

    def screen(self, seeds: Sequence[int], count: int, number: int) -> list[int]:
        """The search seeds that proposal `number` is played on first."""
        if count >= len(seeds):
            return list(seeds)
        return sorted(self._random("screen", number).sample(list(seeds), count))

    def _common_ancestor(self, a: str, b: str) -> str | None:
        """The latest member both descend from; None where one descends from the other."""
        of_a, of_b = self._ancestors(a), self._ancestors(b)
        if a in of_b or b in of_a:
            return None
        order = list(self.members)
        return max(of_a & of_b, key=order.index, default=None)

    def _ancestors(self, name: str) -> set[str]:
        found: set[str] = set()
        todo = list(self.members[name].parents)
        while todo:
            parent = todo.pop()
            if parent in self.members and parent not in found:
                found.add(parent)
                todo += self.members[parent].parents
        return found

    def _random(self, what: str, number: int) -> random.Random:
        return random.Random(f"{self._seed} {what} {number}")
