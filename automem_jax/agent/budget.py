"""The token budget of a prompt: counting, and cutting so that it is kept, visibly.

No prompt is longer than its budget. Bytes bound tokens from above in every byte-level vocabulary, so
tokens are counted only where bytes exceed the budget.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from automem_jax.text.messages import Message

MESSAGE_TOKENS = 8  # a turn's opening and close, at most, in the chat formats there are
CONVERSATION_TOKENS = 32  # a default system message, the opening of the answer
LEAST_ROOM = 64  # less is no room for another turn

CountTokens = Callable[[Sequence[Message]], int]  # of a whole conversation, chat format included

_CACHED_TEXTS = 4096
_FITTING_ROUNDS = 6
_LOWER = bytes(range(ord("a"), ord("z") + 1))
_WORD_STARTS = re.compile(rb" [a-z]")
_SPACES = re.compile(rb"[ \t]{2,}")
_LETTER_TOKENS = 0.75  # common words take a third of that, letters in no order nearly as much
_SPACES_A_TOKEN = 2


def estimate_tokens(text: str) -> int:
    """Tokens of a text, on the safe side for any byte-pair vocabulary of some ten thousand entries.

    Lower-case letters, and the space before a word, count 0.75 each, runs of spaces half their length,
    other characters one each, and what is not ASCII its bytes.
    """
    data = text.encode("utf-8", "surrogatepass")
    letters = len(data) - len(data.translate(None, _LOWER)) + len(_WORD_STARTS.findall(data))
    others = len(data) - letters
    if b"  " in data:
        for run in _SPACES.findall(data):
            others += 1 + len(run) // _SPACES_A_TOKEN - len(run)
    return max(0, others) + math.ceil(_LETTER_TOKENS * letters)


def byte_size(messages: Sequence[Message]) -> int:
    """Tokens of a conversation at most: its bytes and the chat format."""
    total = CONVERSATION_TOKENS + MESSAGE_TOKENS * len(messages)
    for message in messages:
        text = message.content
        total += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return total


def estimated_counter() -> CountTokens:
    """Counts by estimate_tokens, each text once."""
    count = functools.lru_cache(maxsize=_CACHED_TEXTS)(estimate_tokens)

    def total(messages: Sequence[Message]) -> int:
        overhead = CONVERSATION_TOKENS + MESSAGE_TOKENS * len(messages)
        return overhead + sum(count(message.content) for message in messages)

    return total


@dataclass
class Piece:
    """A part of a prompt that may be cut.

    Attributes:
      name: as a trace names it. text: its content.
      order: pieces are cut in rising order.
      keep: what stays when it is cut: its "head" (characters), its "first" or its "last" lines.
      prefix: a label that stays.
      kept: characters of `text` that stay. lines: whole lines that stay, for "first" and "last".
    """

    name: str
    text: str
    order: tuple = ()
    keep: str = "head"
    prefix: str = ""
    kept: int = -1
    lines: int = -1
    gone: bool = False

    def __post_init__(self) -> None:
        self.kept = len(self.text)
        self.lines = self.text.count("\n") + 1 if self.text else 0

    @property
    def shown(self) -> str:
        """The piece as the model sees it."""
        if self.gone:
            return ""
        left = len(self.text) - self.kept
        if left <= 0:
            return self.prefix + self.text
        if self.keep == "last":
            kept = self.text[left:]
            return f"{self.prefix}[cut: {left} characters]" + (f"\n{kept}" if kept else "")
        kept = self.text[: self.kept]
        if self.keep == "first":
            return f"{self.prefix}{kept}" + ("\n" if kept else "") + f"[cut: {left} characters]"
        return f"{self.prefix}{kept} …[cut: {left} characters]"

    def cut_to(self, characters: int) -> None:
        """Keeps about so many characters, whole lines of a piece made of lines."""
        characters = max(0, min(characters, self.kept))
        if self.keep == "head":
            self.kept = characters
            return
        lines = self.text.split("\n")
        ordered = lines if self.keep == "first" else lines[::-1]
        kept = size = 0
        for line in ordered:
            if size + len(line) + (kept > 0) > characters:
                break
            size += len(line) + (kept > 0)
            kept += 1
        self.kept, self.lines = size, kept


def fit(
    pieces: Sequence[Piece],
    compose: Callable[[Sequence[Piece]], Sequence[Message]],
    budget: int,
    count: CountTokens,
) -> bool:
    """Cuts pieces, in place, until the conversation that they make keeps the budget.

    Returns:
      Whether it does; False where even a conversation of marks is too long.
    """
    messages = compose(pieces)
    if byte_size(messages) <= budget:
        return True
    size = count(messages)
    ordered = sorted(pieces, key=lambda piece: piece.order)
    for piece in ordered:
        for _ in range(_FITTING_ROUNDS):
            if size <= budget:
                return True
            if not piece.kept:
                break
            tokens = max(1, count([Message("user", piece.text[: piece.kept])]))
            share = 1 - (size - budget + 12) / tokens
            before = piece.kept
            piece.cut_to(int(before * share) if share > 0.02 else 0)
            if piece.kept == before:
                piece.cut_to(before - 1)
            size = count(compose(pieces))
        if size > budget and piece.kept:
            piece.cut_to(0)
            size = count(compose(pieces))
    for piece in ordered:
        if size <= budget:
            return True
        piece.gone = True
        size = count(compose(pieces))
    return size <= budget


def cuts(pieces: Sequence[Piece], turn: int) -> list[dict[str, int | str]]:
    """What a trace tells of cut pieces."""
    return [
        {"turn": turn, "slot": piece.name, "kept": piece.kept, "of": len(piece.text)}
        for piece in pieces
        if piece.kept < len(piece.text) or (piece.gone and piece.text)
    ]
