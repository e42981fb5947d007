"""Branch points of an episode: what brought a slot here, and proof that a replay got there too.

Engines that cannot be copied (NLE) are taken back by playing seed and actions again; the digest of
what was seen tells whether that arrived at the same place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from automem_jax.envs.base import Percept


class BranchError(RuntimeError):
    """A replay did not arrive where its snapshot was taken."""


@dataclass(frozen=True)
class ReplaySnapshot:
    """A running episode as its seed and the actions taken since; plain data, picklable.

    Attributes:
      seed: the episode's seed.
      actions: names given to `step`, in order, unknown ones included.
      digest: `digest` of the percept at this point.
    """

    seed: int
    actions: tuple[str, ...]
    digest: str


def digest(percept: Percept) -> str:
    """SHA-256 over everything in a percept that an agent or a judge could tell apart."""
    told = hashlib.sha256()
    for part in (
        percept.long_text,
        percept.short_text,
        repr((percept.step, percept.reward, percept.done, percept.end_reason)),
        repr((percept.progression, percept.action, percept.unknown_action, percept.failed)),
    ):
        told.update(part.encode() + b"\0")
    for name in sorted(percept.fields):
        value = percept.fields[name]
        told.update(name.encode() + b"\0")
        told.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return told.hexdigest()
