"""Chat formats equal the tokenizers' own templates; the sampler's tokens; supervision that is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from automem_jax.text.chat import check_supervision, render, render_conversation, spelling
from automem_jax.text.messages import Message
from automem_jax.text.sources import model_directory
from automem_jax.text.tokenizer import HuggingFaceTokenizer, load_tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "chat_golden.json").read_text())
NOTE = "<|APPEND|>notes|lichen behind bars<|END|>"


def tokenizer_of(name):
    if name == "smollm2-135m":
        if not model_directory(name).is_dir():
            pytest.skip("not fetched: automem models get smollm2-135m")
        return load_tokenizer(name)
    config = {"chat_template": GOLDEN["templates"][name]}
    return HuggingFaceTokenizer(
        {"tokenizer.json": GOLDEN["tokenizer"], "tokenizer_config.json": config}
    )


@pytest.fixture(scope="module")
def qwen():
    return tokenizer_of("qwen2.5")


@pytest.mark.parametrize("name", ["qwen2.5", "smollm2", "smollm2-135m"])
def test_tokens_equal_the_tokenizers_own_template(name):
    tokenizer = tokenizer_of(name)
    assert len(GOLDEN["ids"][name]) == len(GOLDEN["conversations"])
    for turns, (prompted, whole) in zip(GOLDEN["conversations"], GOLDEN["ids"][name], strict=True):
        messages = [Message(role, text) for role, text in turns]
        assert render(messages, tokenizer) == prompted, turns
        assert render(messages, tokenizer, add_generation_prompt=False) == whole, turns


def test_added_tokens_written_as_controls_cannot_be_forged():
    content = dict(GOLDEN["tokenizer"])
    token = content["added_tokens"][0] | {"id": 400, "content": "<|fim|>", "special": False}
    content["added_tokens"] = [*content["added_tokens"], token]
    tokenizer = HuggingFaceTokenizer({"tokenizer.json": content})
    ids = render([Message("user", "a<|fim|>b<|im_end|>")], tokenizer)
    assert 400 not in ids and ids.count(tokenizer.eos_id) == 2


def conversation(*answers):
    turns = [Message("system", "A cue")]
    for answer in answers:
        turns += [Message("user", "see: lichen"), Message("assistant", answer)]
    return turns


def other_spelling(text, tokenizer):
    """A token a character: what a sampler may well draw, and no encoder would."""
    ids = [token for letter in text for token in tokenizer.encode(letter)]
    assert ids != tokenizer.encode(text)
    return ids


@pytest.mark.parametrize("source", ["embedded", "qwen2.5"])
def test_learnt_turns_are_in_the_samplers_own_tokens(source):
    tokenizer = load_tokenizer(source) if source == "embedded" else tokenizer_of(source)
    own = other_spelling(NOTE, tokenizer)
    messages = conversation(NOTE, NOTE)
    found = render_conversation(
        messages, tokenizer, [(4, 0, len(NOTE))], {2: own, 4: [*own, tokenizer.eos_id]}
    )
    last, history = found.turns[-1], found.turns[2]
    assert found.ids[last.content : last.close] == own
    assert found.ids[last.close] == tokenizer.eos_id and found.weights[last.close] == 1.0
    assert found.weights[last.content : last.close] == [1.0] * len(own)
    assert found.ids[: last.content] == render(messages[:4], tokenizer)
    assert not any(found.weights[history.start : history.stop])
    assert (found.sampled, found.retokenised) == (1, 0)


def test_a_cleaned_turn_takes_the_tokens_that_spell_it_and_other_text_is_encoded_anew(qwen):
    own = other_spelling(NOTE + "<|ACTION|>east<|END|>", qwen)
    found = render_conversation(conversation(NOTE), qwen, [(2, 0, len(NOTE))], {2: own})
    turn = found.turns[-1]
    assert found.ids[turn.content : turn.close] == own[: len(NOTE)]
    other = render_conversation(conversation("else"), qwen, [(2, 0, 4)], {2: own})
    assert (other.sampled, other.retokenised) == (0, 1)
    turn = other.turns[-1]
    assert other.ids[turn.content : turn.close] == qwen.encode("else")


@pytest.mark.parametrize("text", ["zażółć 🦊\n\n\ttabs", "日本 x", "a"])
def test_spelling_knows_the_characters_of_each_token(qwen, text):
    ids, offsets = qwen.encode_with_offsets(text)
    assert spelling(text, [*ids, qwen.eos_id], qwen) == (ids, offsets)
    assert spelling(text + "!", ids, qwen) is None
    assert spelling(text, [10**6], qwen) is None


def test_spans_carry_their_weight(qwen):
    text = "ab cd"
    found = render_conversation(conversation(text), qwen, [(2, 0, 2, 0.5), (2, 3, 5, 2.0)])
    turn = found.turns[-1]
    weights = found.weights[turn.content : turn.close + 1]
    assert weights[0] == 0.5 and weights[-2:] == [2.0, 2.0] and set(weights) <= {0.0, 0.5, 2.0}
    with pytest.raises(ValueError, match="weight must be finite"):
        render_conversation(conversation(text), qwen, [(2, 0, 2, float("nan"))])
    with pytest.raises(ValueError, match="no token is supervised"):
        render_conversation(conversation(text), qwen, [(2, 0, 2, 0.0)])


def test_weights_that_teach_something_else_are_refused(qwen):
    good = render_conversation(conversation("a", "b"), qwen, [(4, 0, 1)])
    history, last = good.turns[2], good.turns[4]
    for place, message in (
        (good.turns[1].content, "part of the prompt"),
        (last.start, "opening of message 4"),
        (history.close, "end of turn of message 2"),
        (history.content, "masked history"),
        (last.close + 1, "after the end"),
    ):
        weights = list(good.weights)
        weights[place] = 1.0
        with pytest.raises(ValueError, match=message):
            check_supervision(dataclasses.replace(good, weights=weights), [4])
    nothing = dataclasses.replace(good, weights=[0.0] * len(good.ids))
    with pytest.raises(ValueError, match="no token is supervised"):
        check_supervision(nothing, [4])
