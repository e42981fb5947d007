"""One phase's conversation with a model: its messages, its turns' records and its token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent import budget as token_budget
from automem_jax.agent.budget import LEAST_ROOM, CountTokens, Piece
from automem_jax.agent.grammar import Parsed
from automem_jax.agent.record import turn_record
from automem_jax.text.messages import (
    Message,
    Phase,
    PolicyRole,
    Request,
    RequestKey,
    SamplingSettings,
)

_NOTHING_SAID = "(no answer)"  # stands in for an empty reply: chat formats want turns to alternate


@dataclass(frozen=True)
class Budget:
    """How long a conversation may get: tokens, and how they are counted."""

    tokens: int
    count: CountTokens

    def reserve(self, closing: str) -> int:
        """Tokens that the last request takes, a quarter of all at most.

        Args:
          closing: what the last request says.
        """
        closed = [Message("assistant", _NOTHING_SAID), Message("user", closing)]
        return min(self.count(closed) - self.count([]), self.tokens // 4)


@dataclass
class Heard:
    """What a reply's operations brought: answers, each with its record, and other errors."""

    answers: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.answers or self.errors)


@dataclass
class Conversation:
    """The phase that is under way.

    Attributes:
      operations: offered in this phase. turn: replies received. asked: messages that requests held.
      reserve: tokens that answers leave free, for the last request.
      consulting: PLAN with two models, before the base has its say.
      closed: the last request went out; memory operations are refused.
      rejections: actions that guards sent back.
    """

    phase: Phase
    messages: list[Message]
    operations: tuple[str, ...]
    record: dict[str, Any]
    budget: Budget
    consulting: bool = False
    reserve: int = 0
    closed: bool = False
    turn: int = 0
    asked: int = 0
    rejections: int = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another memory turn."""
        tokens = self.budget.tokens
        most = tokens - self.reserve - min(LEAST_ROOM, tokens // 16)
        if token_budget.byte_size(self.messages) <= most:
            return False
        return self.budget.count(self.messages) > most

    def ask(self, episode: int, step: int, sampling: SamplingSettings) -> Request:
        """The next request; its turn is added to the record."""
        role: PolicyRole = "memory" if self.phase == "log" or self.consulting else "gameplay"
        index = len(self.record["turns"])
        self.record["turns"].append(turn_record(role, self.messages[self.asked :]))
        self.asked = len(self.messages)
        key = RequestKey(episode, step, self.phase, index)
        return Request(role, tuple(self.messages), sampling, key)

    def reply(self, text: str, heard: Heard, *more: str) -> bool:
        """Appends the model's words and what it is told about them, cut to what there is room for.

        Returns:
          Whether there was room; if not, nothing is appended.
        """
        answers = [Piece("answer", text, (0, -len(text)), "first") for text in heard.answers]
        errors = Piece("errors", "\n".join(f"error: {error}" for error in heard.errors), (1,))
        closing = Piece("closing", "\n".join(part for part in more if part), (3,))
        # A reply out of all proportion goes before the answers to it.
        last = -1 if len(text) > self.budget.tokens else 2
        reply = Piece("reply", text.strip() or _NOTHING_SAID, (last,))
        told = [*answers, errors, closing]

        def compose(_: Sequence[Piece] = ()) -> list[Message]:
            content = "\n".join(text for piece in told if (text := piece.shown))
            words = Message("assistant", reply.shown or _NOTHING_SAID)
            return [*self.messages, words, Message("user", content or "-")]

        every = [reply, *told]
        budget = self.budget.tokens - (0 if self.closed else self.reserve)
        if not token_budget.fit(every, compose, budget, self.budget.count):
            return False
        self.messages = compose()
        cut = token_budget.cuts(every, self.turn)
        if cut:
            self.record["cuts"].extend(cut)
            for record, piece in zip(heard.records, answers, strict=True):
                if piece.kept < len(piece.text):
                    record["answer"] = piece.shown
                    record["read"] = record["read"][: max(0, piece.lines - 1)]
        return True


def without_action(text: str, parsed: Parsed) -> str:
    """A specialist's reply as the base may see it: no ACTION, and nothing after it but operations."""
    end = len(text)
    cuts = list(parsed.action_spans)
    if cuts:
        end = max([cuts[0][0], *(o.end for o in parsed.operations)])
    if not parsed.operations and parsed.done_start is not None:
        end = min(end, parsed.done_start)
    kept, position = [], 0
    for start, stop in cuts:
        kept.append(text[position : min(start, end)])
        position = max(position, min(stop, end))
    kept.append(text[position:end])
    return "".join(kept).strip()
