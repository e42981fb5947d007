"""Determinism self-test: the same seed and actions must give the same observations, always.

Every seed is played with scripted (seeded random) actions in this process, again in other slots, and
again in worker processes; each part of each percept is hashed, so that a difference is named by
seed, step and field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept, TextEnv

_PERCEPT_PARTS = tuple(f.name for f in dataclasses.fields(Percept) if f.name != "fields")


def part_digests(percept: Percept) -> dict[str, str]:
    """A hash of every part of a percept by name; parts of `fields` are named "fields.KEY"."""
    parts = {name: getattr(percept, name) for name in _PERCEPT_PARTS}
    parts |= {f"fields.{name}": value for name, value in percept.fields.items()}
    return {name: value_digest(value) for name, value in parts.items()}


def value_digest(value: Any) -> str:
    """A hash of numbers, strings, arrays, mappings and sequences of them, equal in every process."""
    return hashlib.blake2b(_canonical(value), digest_size=8).hexdigest()


def _canonical(value: Any) -> bytes:
    """Bytes that depend on a value alone, not on who else holds a part of it."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}".encode() + value.tobytes()
    if isinstance(value, Mapping):
        items = sorted((repr(key), _canonical(inner)) for key, inner in value.items())
        return repr(items).encode()
    if isinstance(value, tuple | list):
        return repr([_canonical(inner) for inner in value]).encode()
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value).encode()


# Of one seed, in order: the digests of each percept's parts.
Episode = list[dict[str, str]]


def play(
    env: TextEnv, seeds: Sequence[int], steps: int, *, backwards: bool = False
) -> dict[int, Episode]:
    """Plays each seed for at most `steps` scripted steps, all slots at once; digests by seed.

    `backwards` deals the seeds to the slots from the other end.
    """
    episodes: dict[int, Episode] = {}
    order = list(reversed(seeds)) if backwards else list(seeds)
    for start in range(0, len(order), env.num_slots):
        held = order[start : start + env.num_slots]
        slots = range(len(held))
        percepts = env.reset(slots, held)
        scripts = {slot: random.Random(f"selftest {seed}") for slot, seed in zip(slots, held)}  # noqa: B905
        for slot, percept in percepts.items():
            episodes[held[slot]] = [part_digests(percept)]
        for _ in range(steps):
            live = [slot for slot, percept in percepts.items() if not percept.done]
            if not live:
                break
            percepts = env.step({slot: scripts[slot].choice(env.actions) for slot in live})
            for slot, percept in percepts.items():
                episodes[held[slot]].append(part_digests(percept))
    return episodes


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first place where two plays of one seed part: step (0 is the reset) and field."""

    seed: int
    step: int
    field: str


def first_differences(one: Mapping[int, Episode], other: Mapping[int, Episode]) -> list[Difference]:
    """The first difference of each seed that has one."""
    found = []
    for seed in one:
        for step in range(max(len(one[seed]), len(other[seed]))):
            if step >= min(len(one[seed]), len(other[seed])):
                found.append(Difference(seed, step, "number of steps"))
                break
            mine, theirs = one[seed][step], other[seed][step]
            parts = [n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n)]
            if parts:
                found.append(Difference(seed, step, ", ".join(parts)))
                break
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: how the seeds were played, and what was different from the first."""

    env: str
    task: str
    how: str
    episodes: int
    percepts: int
    failed: int
    digest: str
    seconds: float
    differences: tuple[Difference, ...]


def check(
    config: EnvConfig,
    seeds: Sequence[int],
    steps: int,
    worker_counts: Sequence[int],
    make: Callable[[EnvConfig], TextEnv] | None = None,
) -> list[Row]:
    """Plays the seeds twice in this process, then with each worker count; one row a play.

    Environments that step all slots in one compiled call have no workers; they are played in
    another number of slots instead.
    """
    from automem_jax import envs

    make = make or envs.make
    slots = min(config.slots, len(seeds))
    here = dataclasses.replace(config, workers=0, slots=slots)
    plans = [("in process", here, False), ("other slots", here, True)]
    if config.name.startswith("craftax"):
        fewer = max(1, slots // 2)
        if fewer != slots:
            plans.append((f"{fewer} slots", dataclasses.replace(here, slots=fewer), False))
    else:
        for count in worker_counts:
            plans.append(
                (
                    f"{count} worker{'s' * (count > 1)}",
                    dataclasses.replace(here, workers=count),
                    False,
                )
            )
    rows: list[Row] = []
    reference: dict[int, Episode] | None = None
    env, built = None, None
    try:
        for how, plan, backwards in plans:
            started = time.monotonic()
            if plan != built:
                if env is not None:
                    env.close()
                env, built = make(plan), plan
            episodes = play(env, seeds, steps, backwards=backwards)
            reference = episodes if reference is None else reference
            broken = value_digest(True)
            rows.append(
                Row(
                    config.name,
                    config.task,
                    how,
                    len(episodes),
                    sum(map(len, episodes.values())),
                    sum(episode[-1]["failed"] == broken for episode in episodes.values()),
                    value_digest([episodes[seed] for seed in seeds])[:12],
                    time.monotonic() - started,
                    tuple(first_differences(reference, episodes)),
                )
            )
    finally:
        if env is not None:
            env.close()
    return rows
