"""Prompts as deltas: what is stored of a turn's messages, and how they are rebuilt.

A phase's first prompt is stored against the previous first prompt of the same phase: of each
message, how many leading characters to keep and what follows them. Later turns of a phase only
append to the conversation, so only the appended messages are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.text.messages import Message


class PromptEncoder:
    """Turns prompts into deltas, in the order in which an episode sends them."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[Message, ...]] = {}
        self._last: tuple[Message, ...] = ()

    def encode(self, phase: str, turn: int, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The JSON-ready delta of one prompt.

        Raises:
          ValueError: a later turn does not continue the turn before it.
        """
        messages = tuple(messages)
        if turn == 0:
            before = self._first.get(phase, ())
            delta = [_against(before, i, message) for i, message in enumerate(messages)]
            self._first[phase] = messages
        else:
            shared = len(self._last)
            if messages[:shared] != self._last:
                raise ValueError(
                    f"{phase} turn {turn} does not continue the conversation before it"
                )
            delta = [{"role": m.role, "text": m.content} for m in messages[shared:]]
        self._last = messages
        return delta


class PromptDecoder:
    """Rebuilds prompts from deltas, in the order in which they were stored."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[Message, ...]] = {}
        self._last: tuple[Message, ...] = ()

    def decode(
        self, phase: str, turn: int, delta: Sequence[Mapping[str, Any]]
    ) -> tuple[Message, ...]:
        """The full messages of one prompt.

        Raises:
          ValueError: the delta keeps more characters than the earlier prompt has.
        """
        if turn == 0:
            before = self._first.get(phase, ())
            messages = tuple(_rebuild(before, i, item) for i, item in enumerate(delta))
            self._first[phase] = messages
        else:
            messages = self._last + tuple(Message(d["role"], d["text"]) for d in delta)
        self._last = messages
        return messages


def _against(before: tuple[Message, ...], index: int, message: Message) -> dict[str, Any]:
    keep = 0
    if index < len(before) and before[index].role == message.role:
        keep = _shared_prefix(before[index].content, message.content)
    return {"role": message.role, "keep": keep, "text": message.content[keep:]}


def _rebuild(before: tuple[Message, ...], index: int, item: Mapping[str, Any]) -> Message:
    keep = item["keep"]
    base = before[index].content if index < len(before) else ""
    if keep > len(base):
        raise ValueError(
            f"message {index} keeps {keep} characters of an earlier one of {len(base)}"
        )
    return Message(item["role"], base[:keep] + item["text"])


def _shared_prefix(a: str, b: str) -> int:
    """Length of the common prefix; bisection, because slice comparison is far faster than a loop."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
