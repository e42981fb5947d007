"""How much of the prompts a KV cache could take over: the share that is an unchanged prefix of an
earlier prompt of the same role in the same episode. The cache's ceiling, computed from traces.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from automem_jax.text.messages import Message
from automem_jax.traces.schema import Trace

Encode = Callable[[str], Sequence[int]]  # a message's text -> token ids

_PIECE = re.compile(r" ?[A-Za-z]+|\d| ?[^\w\s]|\s+|.")  # about what a tokenizer starts from
_SURROGATES = 0xD800
_SURROGATE_COUNT = 0x800
_MOST_CODES = 0x110000 - _SURROGATE_COUNT
_ROLE_CODES = 4  # the first codes are messages' openings


@dataclass
class PrefixShare:
    """Tokens of prompts, and how many of them an earlier prompt began with, by role."""

    tokens: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)

    def share(self, role: str | None = None) -> float | None:
        """Shared tokens per token, of one role or of all; None without prompts."""
        roles = self.tokens if role is None else [role] if role in self.tokens else []
        total = sum(self.tokens[name] for name in roles)
        return sum(self.shared[name] for name in roles) / total if total else None


def prefix_share(trace: Trace, encode: Encode | None = None) -> PrefixShare:
    """The share of an episode's prompts that repeats the start of an earlier one.

    Every prompt is compared with all earlier ones of its role, the best match counts. A later turn of
    a conversation extends the turn before it.

    Args:
      encode: a tokenizer's `encode`. Unless given, words, digits, signs and runs of white space stand
        for tokens.
    """
    prompts = (
        (turn.role, turn.messages)
        for step in trace.steps
        for phase in step.phases
        for turn in phase.turns
    )
    return prompts_share(prompts, encode)


def prompts_share(
    prompts: Iterable[tuple[str, Sequence[Message]]], encode: Encode | None = None
) -> PrefixShare:
    """The same of (role, messages) pairs, in the order in which they were sent.

    Raises:
      ValueError: more different tokens than can be told apart (over a million).
    """
    codes = _Codes(encode)
    earlier: dict[str, list[str]] = {}
    result = PrefixShare()
    for role, messages in prompts:
        prompt = "".join(map(codes.message, messages))
        known = earlier.setdefault(role, [])
        # The best match of all is a neighbour in lexicographic order.
        place = bisect.bisect_left(known, prompt)
        before = _common(known[place - 1], prompt) if place else 0
        after = _common(known[place], prompt) if place < len(known) else 0
        result.tokens[role] = result.tokens.get(role, 0) + len(prompt)
        result.shared[role] = result.shared.get(role, 0) + max(before, after)
        result.prompts[role] = result.prompts.get(role, 0) + 1
        if place and before == len(known[place - 1]):
            known[place - 1] = prompt  # it continues that one
        elif after < len(prompt):
            known.insert(place, prompt)
    return result


class _Codes:
    """Messages as strings of one character a token, so that strings can be compared."""

    def __init__(self, encode: Encode | None) -> None:
        self._encode = encode
        self._ids: dict[str | int, int] = {}
        self._messages: dict[Message, str] = {}

    def message(self, message: Message) -> str:
        if message not in self._messages:
            opening = self._code(("system", "user", "assistant").index(message.role))
            text = message.content
            tokens = _PIECE.findall(text) if self._encode is None else self._encode(text)
            self._messages[message] = opening + "".join(map(self._token, tokens))
        return self._messages[message]

    def _token(self, token: str | int) -> str:
        return self._code(_ROLE_CODES + self._ids.setdefault(token, len(self._ids)))

    @staticmethod
    def _code(number: int) -> str:
        if number >= _MOST_CODES:
            raise ValueError(f"more than {_MOST_CODES} different tokens; pass a tokenizer's encode")
        return chr(number if number < _SURROGATES else number + _SURROGATE_COUNT)


def _common(a: str, b: str) -> int:
    """Length of the common prefix, by bisection over slices."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
