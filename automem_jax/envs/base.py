"""The contract between text environments and agents.

An environment is batched by slot: a slot holds one episode at a time. Same seed and same actions
give the same observations, always. Nothing here imports an environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Percept:
    """What the agent sees of one slot after a reset or a step.

    Attributes:
      long_text: the observation as BALROG shows it, byte for byte (its long-term context).
      short_text: BALROG's short-term context (status, inventory).
      fields: typed parts of the observation, each environment documents its own keys. Values are
        numbers, strings, tuples, mappings or numpy arrays; never handles or file objects.
      actions: legal action names.
      step: environment steps taken so far; 0 after a reset.
      reward: reward of the last step; 0.0 after a reset.
      done: the episode is over; no further step is allowed.
      end_reason: None while the episode runs; else one short phrase ("task solved", "death", ...).
      progression: in [0, 1], the highest reached so far.
      action: the action that was executed to get here; None after a reset.
      unknown_action: the name the agent gave when it was not legal and the environment's declared
        fallback ran instead; None otherwise.
      failed: the environment itself broke (native crash, exception); `end_reason` says how.
    """

    long_text: str
    short_text: str
    fields: Mapping[str, Any]
    actions: tuple[str, ...]
    step: int
    reward: float = 0.0
    done: bool = False
    end_reason: str | None = None
    progression: float = 0.0
    action: str | None = None
    unknown_action: str | None = None
    failed: bool = False


class TextEnv(Protocol):
    """Many independent episodes of one task, addressed by slot number 0..num_slots-1."""

    num_slots: int
    actions: tuple[str, ...]
    fallback_action: str
    max_steps: int
    instructions: str  # the task and its actions in plain words, constant for the task

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts a new episode in each slot, seeded by the number of the same position."""

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """Takes one step in each named slot. Unknown names run `fallback_action`.

        Raises:
          ValueError: a slot's episode is over, or the slot was never reset.
        """

    def frame(self, slot: int) -> np.ndarray:
        """RGB picture of the slot, uint8 [height, width, 3], made on demand."""

    def progression(self, slot: int) -> float:
        """Highest progression of the slot's episode so far, in [0, 1]."""

    def snapshot(self, slot: int) -> Any:
        """The slot's episode at this point, to go on from later, any number of times.

        Raises:
          ValueError: the slot was never reset.
        """

    def restore(self, slot: int, snapshot: Any) -> Percept:
        """Puts a snapshot's episode into a slot, any slot of the same task; its percept.

        Raises:
          BranchError: the environment did not arrive at the snapshot's observation.
        """

    def close(self) -> None:
        """Frees engines and worker processes. Safe to call twice."""
