import numpy as np
import pytest
from sampling.letters import PIECES, LetterTokenizer

from automem_jax.sampling.stop_strings import MAX_DEVICE_STRINGS, StopStrings

STOPS = ("</a>", "a", "aba", "b</", "ab ab")


def test_the_table_agrees_with_looking_at_the_text_after_every_token():
    strings = StopStrings(LetterTokenizer(), 64)
    strings.add(set(STOPS[:2]))
    strings.add(set(STOPS))
    next_state, ends_with = map(np.asarray, (strings.table.next_state, strings.table.ends_with))
    rng = np.random.default_rng(0)
    alphabet = [i for i, p in enumerate(PIECES) if set(p) <= set("ab </>")] + [1]
    seen = set()
    for _ in range(50):
        state, text = 0, ""
        for token in rng.choice(alphabet, 60):
            added = LetterTokenizer().decode([token])
            text += added
            hits = int(ends_with[state, token])
            for stop in STOPS:
                expected = bool(added) and text.endswith(stop)
                assert bool(hits & strings.mask((stop,))) == expected, (text, stop)
                seen |= {stop} if expected else set()
            state = next_state[state, token]
    assert seen == set(STOPS)


def test_odd_stop_strings():
    strings = StopStrings(LetterTokenizer(), 64)
    with pytest.raises(ValueError, match="empty"):
        strings.add({""})
    many = {f"{'ab'[i % 2]}{chr(97 + i // 2)}" for i in range(40)}
    strings.add(many)
    assert strings.mask(tuple(many)) == 2**MAX_DEVICE_STRINGS - 1
