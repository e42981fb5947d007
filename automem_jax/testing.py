"""Test doubles that users may use too: a policy that is a function, and a tiny environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from automem_jax.envs.base import Percept
from automem_jax.text.messages import Completion, Request


class ScriptedPolicy:
    """Answers each request with what `answer(request)` returns: text, or a whole Completion.

    Token counts are words, so that traces have some. `requests` keeps everything that was asked.
    """

    def __init__(
        self, answer: Callable[[Request], str | Completion], max_batch: int = 1024
    ) -> None:
        self.max_batch = max_batch
        self.requests: list[Request] = []
        self._answer = answer

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers in order."""
        return [self._complete(request) for request in requests]

    def describe(self) -> dict[str, Any]:
        """A fixed identity."""
        return {"kind": "scripted", "model": "function", "base_hash": "", "adapter_hash": None}

    def close(self) -> None:
        """Nothing to free."""

    def _complete(self, request: Request) -> Completion:
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Completion):
            return answer
        return Completion(
            text=answer,
            prompt_tokens=sum(len(m.content.split()) for m in request.messages),
            completion_tokens=len(answer.split()),
        )


class ToyEnv:
    """A corridor of `length` cells with a cue at its start and a fork at its end.

    The cue says "left" (even seeds) or "right" (odd seeds) and is visible in the first cell only.
    "forward" walks on; at the fork "left" or "right" ends the episode, with reward 1 and
    progression 1 if it is what the cue said. "wait" does nothing. Percept fields: language,
    message, position.
    """

    actions = ("forward", "left", "right", "wait")
    fallback_action = "wait"
    instructions = (
        "Walk forward to the fork and take the side that the sign names.\n"
        "Actions: forward, left, right, wait"
    )

    def __init__(self, num_slots: int = 1, length: int = 3, max_steps: int = 20) -> None:
        self.num_slots = num_slots
        self.max_steps = max_steps
        self._length = length
        self._seeds: dict[int, int] = {}
        self._percepts: dict[int, Percept] = {}

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts episodes; see TextEnv."""
        for slot, seed in zip(slots, seeds, strict=True):
            self._seeds[slot] = seed
            self._percepts[slot] = self._percept(seed, 0, 0, None, "")
        return {slot: self._percepts[slot] for slot in slots}

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """Steps the named slots; see TextEnv."""
        for slot, written in actions.items():
            before = self._percepts.get(slot)
            if before is None or before.done:
                raise ValueError(f"slot {slot}: no running episode; call reset first")
            unknown = None if written in self.actions else written
            action = self.fallback_action if unknown else written
            position, seed, step = before.fields["position"], self._seeds[slot], before.step + 1
            message, reward, reason = "", 0.0, None
            if action == "forward" and position < self._length:
                position += 1
            elif action in ("left", "right") and position == self._length:
                solved = action == self._cue(seed)
                reward, reason = (1.0, "task solved") if solved else (-1.0, "task failed")
            elif action != "wait":
                message = "You bump into a wall."
            if reason is None and step >= self.max_steps:
                reason = "step limit"
            self._percepts[slot] = self._percept(
                seed, position, step, action, message, reward, reason, unknown
            )
        return {slot: self._percepts[slot] for slot in actions}

    def frame(self, slot: int) -> np.ndarray:
        """The corridor as one row of pixels, the walker in white."""
        picture = np.zeros((1, self._length + 1, 3), np.uint8)
        picture[0, self._percepts[slot].fields["position"]] = 255
        return picture

    def progression(self, slot: int) -> float:
        """1.0 once solved."""
        return self._percepts[slot].progression

    def close(self) -> None:
        """Nothing to free."""

    @staticmethod
    def _cue(seed: int) -> str:
        return "right" if seed % 2 else "left"

    def _percept(
        self,
        seed: int,
        position: int,
        step: int,
        action: str | None,
        message: str,
        reward: float = 0.0,
        reason: str | None = None,
        unknown: str | None = None,
    ) -> Percept:
        if position == 0:
            language = f"a sign says {self._cue(seed)}"
        else:
            language = "the fork" if position == self._length else "a corridor"
        return Percept(
            long_text=f"message:\n{message}\n\nobservation:\n{language}",
            short_text=f"step {step}",
            fields={"language": language, "message": message, "position": position},
            actions=self.actions,
            step=step,
            reward=reward,
            done=reason is not None,
            end_reason=reason,
            progression=1.0 if reason == "task solved" else 0.0,
            action=action,
            unknown_action=unknown,
        )
