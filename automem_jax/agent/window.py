"""Baselines without memory: the last observations and actions as one chat, and nothing else.

Same interface, prompts' budget, repairs and trace as the memory agent, so that the engine plays both
and memory's share of a result can be measured. A step is one PLAN conversation of the base model.
"""

from __future__ import annotations

import collections
from typing import Any

from automem_jax.agent import actions
from automem_jax.agent import budget as token_budget
from automem_jax.agent.agent import Decision
from automem_jax.agent.budget import CountTokens, Piece
from automem_jax.agent.effects import ObsDiff
from automem_jax.agent.grammar import parse
from automem_jax.agent.record import (
    STATISTICS,
    completion_record,
    end_record,
    step_record,
    turn_record,
)
from automem_jax.agent.template import ActionsSpec
from automem_jax.config import BASELINES
from automem_jax.envs.base import Percept
from automem_jax.text.messages import Completion, Message, Request, RequestKey, SamplingSettings

_FORM = "Answer with exactly one action of the list, written <|ACTION|>name<|END|>."
_REASON = (
    "Think first: say in a few sentences what you see, what you want next and why. Then give exactly "
    "one action of the list, written <|ACTION|>name<|END|>."
)
_NUDGE = "No action was found in that. Answer with <|ACTION|>name<|END|> only."
_NO_MEMORY = "You see the last observations and your actions on them; nothing older is kept."
_TURNS = 2  # replies a step: one, and one more where the first held no action


class WindowAgent:
    """One episode's agent without memory. Exactly one request is in flight at a time.

    The prompt is a chat: instructions, then for each of the last steps the observation (user) and the
    action taken on it (assistant), then the current observation with status and inventory. Where that
    exceeds the budget the oldest steps are left out, then the observation is cut, visibly.
    """

    def __init__(
        self,
        sampling: SamplingSettings,
        *,
        episode: int,
        instructions: str,
        kind: str = "window",
        window: int = 16,
        actions_spec: ActionsSpec | None = None,
        phase_tokens: int = 16_384,
        count_tokens: CountTokens | None = None,
        context_tokens: int | None = None,
    ) -> None:
        """
        Args:
          sampling, episode, instructions, count_tokens, context_tokens: as for Agent.
          kind: "window" answers with the action, "window_cot" reasons before it.
          window: earlier steps that are shown.
          actions_spec: how what is written becomes a legal action.
          phase_tokens: the longest prompt.

        Raises:
          ValueError: no such kind.
        """
        if kind not in BASELINES:
            raise ValueError(f"agent kind {kind!r} is none of {', '.join(BASELINES)}")
        self._sampling = sampling
        self._episode = episode
        self._actions_spec = actions_spec or ActionsSpec()
        self._system = f"{instructions}\n{_NO_MEMORY}\n{_REASON if kind == 'window_cot' else _FORM}"
        self._count_tokens = count_tokens or token_budget.estimated_counter()
        self._budget = phase_tokens if context_tokens is None else min(phase_tokens, context_tokens)
        self._past: collections.deque[tuple[Message, Message]] = collections.deque(maxlen=window)
        self._outcome = ObsDiff()
        self._changed: bool | None = None
        self._percept: Percept | None = None
        self._messages: list[Message] | None = None
        self._record: dict[str, Any] = {}
        self._stats = dict.fromkeys(STATISTICS, 0)
        self._tokens = {"prompt": 0, "completion": 0, "calls": 0}

    def observe(self, percept: Percept) -> Request | Decision:
        """Takes the next percept and asks for an action.

        Raises:
          ValueError: the episode is over, or a request is still in flight.
        """
        if percept.done:
            raise ValueError("the episode is over; call end_record instead of observe")
        if self._messages is not None:
            raise ValueError("a request is in flight; call receive with its completion first")
        self._see(percept)
        messages, cuts = self._prompt(percept)
        phase = {"phase": "plan", "shown": {}, "cuts": cuts, "turns": []}
        self._record = step_record(percept, self._changed) | {"phases": [phase]}
        self._messages = messages
        return self._ask(messages)

    def receive(self, completion: Completion) -> Request | Decision:
        """Takes the answer to the request in flight.

        Raises:
          ValueError: no request is in flight.
        """
        if self._messages is None:
            raise ValueError("no request is in flight; call observe first")
        self._tokens["prompt"] += completion.prompt_tokens
        self._tokens["completion"] += completion.completion_tokens
        self._tokens["calls"] += 1
        turns = self._record["phases"][0]["turns"]
        turns[-1]["completion"] = completion_record(completion)
        if completion.finish_reason == "error":
            error = f"plan call failed: {completion.error or 'no reason given'}"
            turns[-1]["errors"].append(error)
            self._stats["failed_calls"] += 1
            return self._decide(None, error)
        written = parse(completion.text, ()).action
        turns[-1]["action"] = written
        if written is None and len(turns) < _TURNS:
            reply = Piece("reply", completion.text.strip() or "(no answer)", (0,))
            messages = self._messages

            def compose(_: Any = ()) -> list[Message]:
                return [*messages, Message("assistant", reply.shown), Message("user", _NUDGE)]

            if token_budget.fit([reply], compose, self._budget, self._count_tokens):
                cut = token_budget.cuts([reply], len(turns))
                self._record["phases"][0]["cuts"].extend(cut)
                self._messages = compose()
                return self._ask(self._messages[-2:])
        return self._decide(written, "no action in the reply" if written is None else None)

    def end_record(self, percept: Percept | None, error: str | None = None) -> dict[str, Any]:
        """The trace's end record; see Agent.end_record."""
        if percept is not None and percept is not self._percept:
            self._see(percept)
        return end_record(percept, error, self._tokens, self._stats, self._changed)

    def _see(self, percept: Percept) -> None:
        self._outcome.update(percept)
        if self._percept is not None:
            before = Message("user", self._percept.long_text.strip("\n"))
            done = Message("assistant", f"<|ACTION|>{percept.action}<|END|>")
            self._past.append((before, done))
            self._changed = bool(self._outcome.outputs()["changed"])
            self._stats["unproductive_actions"] += not self._changed
        self._percept = percept

    def _prompt(self, percept: Percept) -> tuple[list[Message], list[dict[str, Any]]]:
        texts = (percept.long_text.strip("\n"), percept.short_text.strip("\n"))
        now = Piece("observation", "\n\n".join(text for text in texts if text), (0,))
        system = Piece("instructions", self._system, (1,))
        past = list(self._past)

        def compose(_: Any = ()) -> list[Message]:
            chat = [message for pair in past for message in pair]
            return [Message("system", system.shown), *chat, Message("user", now.shown or "-")]

        while past and token_budget.byte_size(compose()) > self._budget:
            if self._count_tokens(compose()) <= self._budget:
                break
            del past[0]
        cuts = []
        if len(past) < len(self._past):
            cuts.append({"turn": 0, "slot": "steps", "kept": len(past), "of": len(self._past)})
        token_budget.fit([now, system], compose, self._budget, self._count_tokens)
        return compose(), cuts + token_budget.cuts([now, system], 0)

    def _ask(self, new: list[Message]) -> Request:
        turns = self._record["phases"][0]["turns"]
        turns.append(turn_record("gameplay", new))
        key = RequestKey(self._episode, self._record["t"], "plan", len(turns) - 1)
        return Request("gameplay", tuple(self._messages), self._sampling, key)

    def _decide(self, written: str | None, error: str | None) -> Decision:
        legal, spec = self._percept.actions, self._actions_spec
        action = None if written is None else actions.repair(written, legal, spec)
        source = "model" if action == written else "repair"
        if action is None:
            source, action = "fallback", actions.fallback(legal, spec)
            if written is not None:
                error = f"{written[:80]!r} is no action of this task"
        self._stats["fallbacks"] += source == "fallback"
        self._stats["repairs"] += source == "repair"
        self._stats["actions"] += 1
        if error:
            self._record["errors"].append(error)
        self._record |= {"action": action, "action_source": source, "proposed": written}
        self._messages = None
        return Decision(action, self._record)
