"""Conversations, and what is asked of a policy: the words between agent, policy and trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ChatRole = Literal["system", "user", "assistant"]
PolicyRole = Literal["memory", "gameplay"]
Phase = Literal["log", "plan"]

PHASE_NUMBER: dict[str, int] = {"log": 0, "plan": 1}


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: ChatRole
    content: str


@dataclass(frozen=True)
class RequestKey:
    """Names one generation inside a run; sampling randomness depends on it and the run's seed only.

    Attributes:
      episode: the episode's environment seed.
      step: environment step, from 0.
      phase: "log" or "plan".
      turn: turn of the agent model within the phase, from 0.
    """

    episode: int
    step: int
    phase: Phase
    turn: int


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw tokens. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch off.

    `stop` ends generation when the text so far ends with one of them; the stop string is kept in
    the completion's text (operations end with their closing tag).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One generation asked of a policy.

    `role` picks the model: "memory" goes to the specialist where there is one, "gameplay" always to
    the unmodified base.
    """

    role: PolicyRole
    messages: tuple[Message, ...]
    sampling: SamplingSettings
    key: RequestKey


@dataclass(frozen=True)
class Completion:
    """What a policy answers.

    Attributes:
      text: the generated text, stop string included, end-of-turn token excluded.
      token_ids: the sampler's own ids for `text` and, where sampled, the end-of-turn token; empty
        where the server does not give them.
      logprobs: log-probability of each token under the full distribution at temperature 1; same
        length as token_ids or empty.
      finish_reason: "stop" (end of turn), "stop_string", "length", or "error".
      prompt_tokens, completion_tokens: counts (0 where unknown).
      error: what went wrong, when finish_reason is "error" after all retries; else None.
      outage: the error is the server's, whatever the request (down, silent, key or model refused).
      tries: calls it took.
      cached_tokens: of the prompt's, those that the server had in its cache (0 where unknown).
      cost_usd: what it cost by the price table; None where there is none.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    outage: bool = False
    tries: int = 1
    cached_tokens: int = 0
    cost_usd: float | None = None
