"""What disqualifies a decision whatever its credit, and the caps that keep a selection varied."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from automem_jax.config import SelectionConfig
from automem_jax.selection.lineage import EpisodeLineage, TurnRecord


class Ranked(Protocol):
    """What the caps look at: whose episode and phase it is, the text trained on, and how good it is."""

    trace: str
    phase: str
    text: str
    rank: float


def is_memory_turn(episode: EpisodeLineage, turn: TurnRecord) -> bool:
    """Whether the turn is a memory decision: where a specialist ran beside the base, only its own turns;
    where one model did both, every turn that holds memory operations."""
    if not turn.operations:
        return False
    return turn.role == "memory" or not episode.two_model


def invalid(turn: TurnRecord) -> str | None:
    """Why the turn was not carried out as written, or None: the call or an operation failed, or the
    token limit cut its last operation."""
    if turn.failed:
        return "policy_error"
    if turn.cut_off:
        return "cut_off"
    if any(not operation["ok"] for operation in turn.operations):
        return "invalid_operation"
    return None


def idle(turn: TurnRecord) -> str | None:
    """Why the turn's operations changed and told nothing, or None."""
    if any(operation.get("redundant") for operation in turn.operations):
        return "redundant"
    if any(operation.get("empty") for operation in turn.operations):
        return "empty_read"
    return None


def cap(
    candidates: Sequence[Ranked], config: SelectionConfig, rejected: Counter[str]
) -> list[Ranked]:
    """Candidates within the caps: an episode's, a repeated text's, the total.

    The best of each episode's LOG and of its PLAN come first, then their second best, and so on: a line
    that is written once and read twenty times yields the write as well as reads. Equal ranks are
    ordered by the seed. What falls out is counted in `rejected`.
    """
    order = list(candidates)
    random.Random(config.seed).shuffle(order)
    order.sort(key=lambda c: -c.rank)
    place: Counter[tuple[str, str]] = Counter()
    rounds = []
    for candidate in order:
        rounds.append(place[candidate.trace, candidate.phase])
        place[candidate.trace, candidate.phase] += 1
    order = [order[i] for i in sorted(range(len(order)), key=rounds.__getitem__)]
    per_episode: Counter[str] = Counter()
    per_text: Counter[str] = Counter()
    kept = []
    for candidate in order:
        if per_episode[candidate.trace] >= config.max_per_episode:
            rejected["episode_cap"] += 1
        elif per_text[candidate.text] >= config.max_repeats:
            rejected["repeat_cap"] += 1
        elif len(kept) >= config.max_examples:
            rejected["max_examples"] += 1
        else:
            per_episode[candidate.trace] += 1
            per_text[candidate.text] += 1
            kept.append(candidate)
    return kept
