"""What is asked of the engine, and what it answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from automem_jax.sampling.token_choice import key_words
from automem_jax.text.messages import RequestKey, SamplingSettings

Key = tuple[int, int, int, int, int]


class QueueFull(RuntimeError):
    """As many requests wait as the engine takes; try again when some have ended."""


class Constraint(Protocol):
    """Which tokens may come next, as a state machine over tokens. See `constrain`.

    States are hashable and stay small in number: masks are kept by state.
    """

    def start(self) -> Hashable:
        """The state before the first generated token."""

    def advance(self, state: Hashable, token: int) -> Hashable:
        """The state after `token`."""

    def allowed(self, state: Hashable) -> np.ndarray | None:
        """[V] bool, the tokens that may follow; None: all."""


@dataclass(frozen=True)
class GenerationRequest:
    """One generation.

    Attributes:
      id: names it in events and for `cancel`; unique among those that have not ended.
      prompt_ids: tokens of the whole prompt, at least one.
      sampling: how to draw, when to stop (`stop`, `max_tokens`).
      key: five unsigned 32-bit words that the randomness depends on, and nothing else does: `random_key`.
      adapter: 0 or None: the base alone; a name that was loaded, or its number (from 1).
      constraint: restricts the tokens; None: none.
      top_logprobs: alternatives to report with each token, 0 .. engine.TOP_LOGPROBS.
    """

    id: Hashable
    prompt_ids: Sequence[int]
    sampling: SamplingSettings
    key: Key = (0, 0, 0, 0, 0)
    adapter: int | str | None = None
    constraint: Constraint | None = None
    top_logprobs: int = 0


def random_key(run_seed: int, key: RequestKey) -> Key:
    """The words of a rollout's request."""
    return (run_seed & 0xFFFFFFFF, *key_words(key))


@dataclass(frozen=True)
class Generated:
    """One answer: ids with the end-of-turn token where sampled, log-probabilities at temperature 1.

    finish_reason is "stop" (end of turn), "stop_string", "length" or "cancelled". `text` leaves the
    end-of-turn token out and keeps the stop string. `reused_tokens` of the prompt came from the cache.
    `top_logprobs` has (token, log-probability) pairs for each token, most likely first.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    prompt_tokens: int = 0
    reused_tokens: int = 0
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True)
class Event:
    """What one step did for one request.

    Attributes:
      id: of the request.
      token_ids, logprobs, text: what is new. `text` never ends in half a character, and holds back what
        might become a stop string; the deltas joined are the answer's text.
      finished: the whole answer, where it ended.
    """

    id: Hashable
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    text: str = ""
    finished: Generated | None = None


Counters = dict[str, Any]
