"""Which of the good decisions to train on: the best, but not all of one kind.

Kinds take turns: tasks first, within a task its phases, within a phase its operations, within those the
prompt's shapes, and within a shape the episodes. At every level whose turn it is gives its best that is
left, so that a kind with fewer decisions is used up before it limits the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from automem_jax.config import SelectionConfig
from automem_jax.selection.combine import Scored
from automem_jax.selection.duplicates import NearCopies


def choose(
    scored: Sequence[Scored], config: SelectionConfig, rejected: Counter[str]
) -> list[Scored]:
    """At most max_examples of those without a reason against them; what falls out is counted."""
    copies = NearCopies(config.near_copy, config.seed)
    of_episode: Counter[str] = Counter()
    of_text: Counter[int] = Counter()
    kept = []
    for one in _in_turn([one for one in scored if one.reason is None]):
        episode, original = one.episode.lineage.trace, copies.original(one.decision.text)
        if of_episode[episode] >= config.max_per_episode:
            one.reason = "episode_cap"
        elif of_text[original] >= config.max_near_copies:
            one.reason = "near_copy_cap"
        elif len(kept) >= config.max_examples:
            one.reason = "max_examples"
        else:
            of_episode[episode] += 1
            of_text[original] += 1
            kept.append(one)
            continue
    for one in scored:
        if one.reason is not None:
            rejected[one.reason] += 1
    return kept


def _kinds(one: Scored) -> tuple[str, ...]:
    decision = one.decision
    lineage = one.episode.lineage
    operations = "+".join(sorted(set(decision.operations)))
    return lineage.task, decision.key.phase, operations, decision.shape, lineage.trace


def _in_turn(scored: Sequence[Scored], level: int = 0) -> Iterator[Scored]:
    """Members of the kinds of this level, one each in turn; best first within the last level."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        groups[_kinds(one)[level]].append(one)
    best = {name: max(one.score for one in members) for name, members in groups.items()}
    order = sorted(groups, key=lambda name: (-best[name], name))
    if level == len(_kinds(scored[0])) - 1 if scored else True:
        waiting = [iter(sorted(groups[name], key=_rank)) for name in order]
    else:
        waiting = [_in_turn(groups[name], level + 1) for name in order]
    while waiting:
        left = []
        for members in waiting:
            one = next(members, None)
            if one is not None:
                yield one
                left.append(members)
        waiting = left


def _rank(one: Scored) -> tuple:
    key = one.decision.key
    return -one.score, key.t, key.phase, key.turn
