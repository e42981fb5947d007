"""Text of tokens as they come: deltas that never end in half a character, and where a stop string ends."""

from __future__ import annotations

from automem_jax.text.tokenizer import Tokenizer

_WINDOW = 8  # tokens before the newest that a tokenizer may join with them
_LONGEST_CHARACTER = 4  # bytes, so tokens, of one character that byte tokens spell


class TextStream:
    """The text of one answer.

    Attributes:
      text: of the tokens so far, half characters as U+FFFD; cut after the first stop string.
      stopped: a stop string was met.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]):
        if "" in stop:
            raise ValueError("an empty stop string would stop every generation; remove it")
        self._tokenizer, self._stop = tokenizer, stop
        self._longest = max(map(len, stop), default=0)
        self._ids: list[int] = []
        self._fixed, self._start = "", 0  # text before token _start
        self._sent = 0
        self.text, self.stopped = "", False

    def add(self, token: int) -> bool:
        """Takes one more token; True where a stop string is complete, and `text` cut after it."""
        self._ids.append(token)
        before = len(self.text)
        self.text = self._fixed + self._tail()
        if self._stop:
            begin = max(0, before - self._longest - _LONGEST_CHARACTER)
            ends = [
                at + len(stop) for stop in self._stop if (at := self.text.find(stop, begin)) >= 0
            ]
            if ends:
                self.text, self.stopped = self.text[: min(ends)], True
        self._advance()
        return self.stopped

    def delta(self, last: bool = False) -> str:
        """What is new and settled; with `last`, all that was held back."""
        stop = len(self.text)
        if not last:
            while stop > self._sent and self.text[stop - 1] == "\ufffd":
                stop -= 1
            stop = max(self._sent, stop - self._begun(stop))
        new, self._sent = self.text[self._sent : stop], stop
        return new

    def _begun(self, end: int) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        if self.stopped:
            return 0
        for size in range(min(self._longest - 1, end), 0, -1):
            ending = self.text[end - size : end]
            if any(stop.startswith(ending) for stop in self._stop):
                return size
        return 0

    def _tail(self) -> str:
        """Text from token _start on: decoded behind some tokens of its past, as the whole would be."""
        context = self._ids[max(0, self._start - _WINDOW) : self._start]
        if not context:
            return self._tokenizer.decode(self._ids)
        lead = self._tokenizer.decode(context)
        return self._tokenizer.decode(context + self._ids[self._start :])[len(lead) :]

    def _advance(self) -> None:
        """Fixes the text so far, so that the work for a token does not grow; not inside a character."""
        if len(self._ids) - self._start >= _WINDOW and not self.text.endswith("\ufffd"):
            self._fixed, self._start = self.text, len(self._ids)
