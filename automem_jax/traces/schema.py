"""What a trace holds, as read back: header, steps, end.

A trace is one JSONL file an episode. Its first line is the header, then comes one line a step (a
percept that was acted on, with everything said and done before the action), then one end line. It
holds no wall-clock time and nothing that depends on what else shared the batch, so the same seed,
weights and template give the same bytes.

Nothing is stored twice: a text that repeats another refers to it (see compact.py) and memory is
changes (see automem_jax.agent.memory.replay), so a file grows linearly with the episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from automem_jax.text.messages import Completion, Message, Phase, PolicyRole

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1 stored prompts as deltas and everything else in full


class TraceError(ValueError):
    """A trace cannot be read; the message says "path:line: what is wrong; remedy"."""


@dataclass(frozen=True)
class Turn:
    """One generation: the whole prompt, the answer, and what the agent made of it.

    Attributes:
      role: "memory" (specialist, where one is loaded) or "gameplay" (always the base).
      messages: the full prompt, rebuilt from the stored deltas.
      completion: text, token ids and log-probabilities as sampled.
      operations: one mapping an operation in the order written, with keys op, args, file, start,
        end (characters of `completion.text`), ok, answer, error, wrote, read (line ids),
        redundant, empty.
      action: the action written in this turn, as written; None if there was none or it was stripped.
      done: the reply closes its phase.
      stripped_action: an action written where none may be taken (LOG, or the specialist in PLAN).
      errors: what could not be executed, in the words shown to the model, and failed calls.
      index: turn within the phase, from 0.
      rejected: the action that a guard sent back after this turn; None if none did.
    """

    role: PolicyRole
    messages: tuple[Message, ...]
    completion: Completion
    operations: tuple[dict[str, Any], ...]
    action: str | None
    done: bool
    stripped_action: str | None
    errors: tuple[str, ...]
    index: int
    rejected: str | None = None


@dataclass(frozen=True)
class PhaseRecord:
    """One conversation. `shown` maps a file to ranges [first id, last id] of its lines that the
    first prompt displayed without being asked: every line of that file whose id lies in a range, both
    ends inclusive, was displayed. Ids of other files' lines may lie between. `cuts` lists what the
    token budget took from the prompts: turn, slot (or "answer", "reply", ...), and how many of how many
    characters were kept (kept, of)."""

    phase: Phase
    shown: dict[str, list[list[int]]]
    turns: tuple[Turn, ...]
    cuts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Step:
    """One percept and the action taken on it.

    Attributes:
      t: environment step, from 0.
      percept: long_text, short_text, reward, done, progression, end_reason, action,
        unknown_action, failed, changed (whether that action did anything that the agent can see;
        None where there was none). `reward` and `action` are of the step that led here.
      phases: LOG (from t = 1, if it ran) and PLAN, in this order.
      memory: changes in order; replaying all of them up to here rebuilds the files.
      action: what was sent to the environment.
      action_source: "model" (as written), "repair" (mended spelling) or "fallback".
      errors: failed calls and everything that led to a fallback.
      proposed: the action as the model wrote it, before repair; None if it wrote none.
    """

    t: int
    percept: dict[str, Any]
    phases: tuple[PhaseRecord, ...]
    memory: tuple[dict[str, Any], ...]
    action: str
    action_source: str
    errors: tuple[str, ...] = ()
    proposed: str | None = None


@dataclass(frozen=True)
class Trace:
    """A whole episode. `end` is None where the episode was cut off before its end line."""

    header: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    end: dict[str, Any] | None = None

    @property
    def episode(self) -> str:
        """The episode's id, which is also the file's stem."""
        return self.header["episode"]

    def changes(self, before: int | None = None) -> list[dict[str, Any]]:
        """Memory changes of all steps with t < `before` (all steps unless given), in order."""
        return [
            change
            for step in self.steps
            if before is None or step.t < before
            for change in step.memory
        ]
