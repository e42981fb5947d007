import pytest
from sampling.letters import LetterTokenizer

from automem_jax.sampling.text_stream import TextStream
from automem_jax.text.tokenizer import load_tokenizer


def streamed(tokenizer, ids, stop=()):
    stream, deltas, used = TextStream(tokenizer, stop), [], 0
    for token in ids:
        used += 1
        ended = stream.add(token)
        deltas.append(stream.delta(last=ended or used == len(ids)))
        if ended:
            break
    return stream, deltas, used


TEXT = "  Löwe 🦁 zwölf\n\n<|APPEND|>notes|a ünïcode 日本語 line<|END|> and  spaces, " * 3


def test_deltas_join_to_the_decoded_text_and_never_hold_half_a_character():
    tokenizer = load_tokenizer("embedded")
    ids = tokenizer.encode(TEXT)
    stream, deltas, _ = streamed(tokenizer, ids)
    assert "".join(deltas) == stream.text == tokenizer.decode(ids)
    assert not any("\ufffd" in delta for delta in deltas)


@pytest.mark.parametrize("stop", ["<|END|>", "🦁", "zwölf\n", "d|>"])
def test_a_stop_string_ends_it_wherever_tokens_meet(stop):
    tokenizer = load_tokenizer("embedded")
    stream, deltas, used = streamed(tokenizer, tokenizer.encode(TEXT), (stop, "never"))
    if stop == "d|>":
        assert not stream.stopped
        return
    assert stream.stopped and used < len(tokenizer.encode(TEXT))
    assert stream.text == TEXT[: TEXT.index(stop) + len(stop)] == "".join(deltas)


def test_what_may_become_a_stop_string_is_held_back():
    tokenizer = LetterTokenizer()
    _, deltas, _ = streamed(tokenizer, tokenizer.encode("ab</ab</a>b"), ("</a>",))
    assert deltas == ["a", "b", "", "", "", "</ab", "", "", "", "</a>"]
    # A stop string that ends inside a token cuts the text there.
    stream, _, used = streamed(tokenizer, [5, LetterTokenizer().vocab_size - 3, 6], ("</",))
    assert stream.stopped and used == 2 and stream.text == "a</"
    with pytest.raises(ValueError, match="empty stop string"):
        TextStream(tokenizer, ("",))
