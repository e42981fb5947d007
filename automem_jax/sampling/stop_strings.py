"""Stop strings on the device: an automaton over the text of tokens.

An Aho-Corasick automaton (1975) reads every token's text from every state once, on the host. What
decoding then needs for a token is one look-up: the state after it, and which stop strings the text
ends with. So generation stops at the very token that completes a stop string, however it is split.

Axes: Q automaton states, V vocab.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from automem_jax.text.tokenizer import Tokenizer

MAX_DEVICE_STRINGS = 31


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StopTable:
    """What a token does to the automaton.

    Attributes:
      next_state: [Q, V] int32, 0 .. Q - 1; state 0 is "nothing matched".
      ends_with: [Q, V] int32, bit i set where the text then ends with stop string i.
    """

    next_state: Int[Array, "Q V"]
    ends_with: Int[Array, "Q V"]


class StopStrings:
    """All stop strings that a sampler has met, and their table; strings keep their bit for good.

    Beyond MAX_DEVICE_STRINGS a string gets no bit: the host then finds it after generation.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._bits: dict[str, int] = {}
        self._texts: list[str] | None = None
        nothing = jnp.zeros((1, vocab_size), jnp.int32)
        self.table = StopTable(nothing, nothing)

    def mask(self, stop: tuple[str, ...]) -> int:
        """Bit mask of these strings; call `add` with them first."""
        return sum(1 << self._bits[s] for s in set(stop) if s in self._bits)

    def covers(self, stop: tuple[str, ...]) -> bool:
        """Whether the device looks for every one of these strings, so that its first hit is the first."""
        return all(string in self._bits for string in stop)

    def add(self, stop: set[str]) -> None:
        """Takes new strings into the table.

        Raises:
          ValueError: an empty stop string.
        """
        if "" in stop:
            raise ValueError("an empty stop string would stop every generation; remove it")
        fresh = sorted(stop - set(self._bits))[: MAX_DEVICE_STRINGS - len(self._bits)]
        if not fresh:
            return
        for string in fresh:
            self._bits[string] = len(self._bits)
        if self._texts is None:
            self._texts = token_texts(self._tokenizer, self._vocab_size)
        self.table = build_table(self._bits, self._texts)


def token_texts(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """The text that each token adds in mid-text; empty for control tokens and unused ids.

    An anchor goes before, since decoders drop a leading space.
    """
    anchor = tokenizer.encode("a")
    lead = len(tokenizer.decode(anchor))
    known = min(vocab_size, tokenizer.vocab_size)
    texts = [tokenizer.decode([*anchor, token])[lead:] for token in range(known)]
    return texts + [""] * (vocab_size - known)


def build_table(bits: dict[str, int], texts: list[str]) -> StopTable:
    """The table of `bits` (string -> bit) for tokens with these texts; Q is padded to 64s."""
    goto: list[dict[str, int]] = [{}]
    ends = [0]
    for string, bit in bits.items():
        state = 0
        for character in string:
            if character not in goto[state]:
                goto[state][character] = len(goto)
                goto.append({})
                ends.append(0)
            state = goto[state][character]
        ends[state] |= 1 << bit
    alphabet = {c: i + 1 for i, c in enumerate(sorted({c for s in bits for c in s}))}
    step = np.zeros((len(goto), len(alphabet) + 1), np.int32)  # column 0: any other character
    fail = [0] * len(goto)
    queue = [0]
    for state in queue:  # breadth first: a state's failure state is complete before it
        if state:
            step[state] = step[fail[state]]
            ends[state] |= ends[fail[state]]
        for character, child in goto[state].items():
            fail[child] = int(step[state, alphabet[character]]) if state else 0
            step[state, alphabet[character]] = child
            queue.append(child)
    states = -(-len(goto) // 64) * 64
    current = np.zeros((states, len(texts)), np.int32)
    current[: len(goto)] = np.arange(len(goto))[:, None]
    longest = max(map(len, texts), default=0)
    for position in range(longest):
        columns = [t for t, text in enumerate(texts) if len(text) > position]
        symbols = [alphabet.get(texts[t][position], 0) for t in columns]
        current[:, columns] = step[current[:, columns], symbols]
    ended = np.asarray(ends, np.int32)[current]
    ended[:, [t for t, text in enumerate(texts) if not text]] = 0
    return StopTable(jnp.asarray(current), jnp.asarray(ended))
