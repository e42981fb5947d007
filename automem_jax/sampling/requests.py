"""What is asked of the engine, and what it answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from automem_jax.sampling.token_choice import key_words
from automem_jax.text.messages import RequestKey, SamplingSettings

TOP_LOGPROBS = 20
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
      top_logprobs: alternatives to report with each token, 0 .. TOP_LOGPROBS.
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


def check_request(request: GenerationRequest, max_context: int, vocab_size: int) -> None:
    """Raises ValueError for a request that can never run."""
    prompt, settings = request.prompt_ids, request.sampling
    name = f"request {request.id!r}"
    if not len(prompt) or settings.max_tokens < 1:
        raise ValueError(
            f"{name}: prompt of {len(prompt)} tokens with max_tokens {settings.max_tokens}; both must "
            "be at least 1"
        )
    if len(prompt) + settings.max_tokens > max_context:
        raise ValueError(
            f"{name}: prompt of {len(prompt)} tokens leaves no room for max_tokens "
            f"{settings.max_tokens} within max_context {max_context}; shorten the prompt or raise "
            "max_context"
        )
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise ValueError(f"{name}: its prompt has tokens outside 0 .. {vocab_size - 1}")
    if (
        not 0 <= settings.temperature < float("inf")
        or not 0 < settings.top_p <= 1
        or not 0 <= settings.min_p < 1
        or settings.top_k < 0
    ):
        raise ValueError(
            f"{name}: temperature {settings.temperature} and top_k {settings.top_k} must be at least 0, "
            f"top_p {settings.top_p} in (0, 1], min_p {settings.min_p} in [0, 1)"
        )
    if not 0 <= request.top_logprobs <= TOP_LOGPROBS:
        raise ValueError(f"{name}: top_logprobs {request.top_logprobs} is not 0 .. {TOP_LOGPROBS}")
    if len(request.key) != 5 or not all(0 <= word < 2**32 for word in request.key):
        raise ValueError(f"{name}: key {request.key} is not five unsigned 32-bit words")
