import dataclasses

import jax
import numpy as np
import pytest
from models.test_lora import random_adapter
from models.tiny import tiny_decoder
from sampling.letters import LetterTokenizer

from automem_jax.models import logits
from automem_jax.models.lora import with_adapters
from automem_jax.sampling import Generation, Sampler
from automem_jax.text.messages import RequestKey, SamplingSettings

SLOTS, CONTEXT = 64, 96
SETTINGS = SamplingSettings(max_tokens=12, min_p=0.02, temperature=0.9, stop=("a", "</a>", "b<"))


@pytest.fixture(scope="module")
def model():
    base = tiny_decoder()
    return with_adapters(base, [random_adapter(base, 1)])


@pytest.fixture(scope="module")
def sampler(model):
    return Sampler(model, LetterTokenizer(), SLOTS, CONTEXT, seed=3, buckets=(32, CONTEXT))


def asked(count, adapter=0, settings=SETTINGS):
    rng = np.random.default_rng(0)
    return [
        Generation(
            rng.integers(5, 42, int(length)).tolist(),
            settings,
            RequestKey(i, i % 5, "plan" if i % 2 else "log", 0),
            adapter,
        )
        for i, length in enumerate(rng.integers(3, 80, count))
    ]


def test_bits_do_not_depend_on_company_or_order(sampler):
    rows = asked(SLOTS)
    together = sampler.generate(rows)
    assert len({answer.token_ids for answer in together}) > SLOTS // 2
    assert {answer.finish_reason for answer in together} >= {"stop_string", "length"}
    for i in (0, 17, 63):
        assert sampler.generate([rows[i]]) == [together[i]]
    assert sampler.generate(rows[20:36]) == together[20:36]
    order = np.random.default_rng(1).permutation(SLOTS)
    shuffled = sampler.generate([rows[i] for i in order])
    assert shuffled == [together[i] for i in order]
    assert sampler.generate(rows + rows[:9]) == together + together[:9]


def test_base_rows_are_the_same_beside_adapter_rows_and_other_settings(sampler):
    base, special = asked(SLOTS), asked(SLOTS, adapter=1)
    alone, adapted = sampler.generate(base), sampler.generate(special)
    assert sum(a != b for a, b in zip(alone, adapted, strict=False)) > SLOTS // 2
    mixed = sampler.generate([(special if i % 3 else base)[i] for i in range(SLOTS)])
    assert mixed == [(adapted if i % 3 else alone)[i] for i in range(SLOTS)]
    nucleus = dataclasses.replace(SETTINGS, top_p=0.5, stop=("c",))
    other = asked(SLOTS, settings=nucleus)
    assert sampler.generate([base[0], *other[1:]])[0] == alone[0]


def test_one_program_a_bucket(model):
    sampler = Sampler(model, LetterTokenizer(), 8, CONTEXT, seed=0, buckets=(32, CONTEXT))
    for count in (1, 3, 8, 11):
        sampler.generate(asked(count))
    assert sampler.compiled() == {"prefill": 2, "decode": 1}


@pytest.mark.parametrize("adapter", [0, 1])
def test_decode_equals_the_full_forward_pass(model, sampler, adapter):
    settings = SamplingSettings(max_tokens=14)
    rows = asked(6, adapter, settings)
    for row, answer in zip(rows, sampler.generate(rows), strict=False):
        whole = np.array([[*row.prompt, *answer.token_ids]])
        padded = np.pad(whole, ((0, 0), (0, CONTEXT - whole.shape[1])))
        segments = (np.arange(CONTEXT) < whole.shape[1]).astype(np.int32)[None]
        out = logits(model, padded, segments, adapter_ids=np.array([adapter]))
        likelihoods = jax.nn.log_softmax(out[0])
        first = len(row.prompt) - 1
        expected = [likelihoods[first + t, token] for t, token in enumerate(answer.token_ids)]
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)


def test_greedy_follows_the_argmax_of_the_full_pass(model, sampler):
    row = asked(1, settings=SamplingSettings(temperature=0.0, max_tokens=8))[0]
    ids = list(row.prompt)
    for token in sampler.generate([row])[0].token_ids:
        padded = np.array([ids + [0] * (CONTEXT - len(ids))])
        segments = (np.arange(CONTEXT) < len(ids)).astype(np.int32)[None]
        assert token == int(np.argmax(logits(model, padded, segments)[0, len(ids) - 1]))
        ids.append(token)


def test_stopping_equals_checking_the_text_after_every_token(sampler):
    free = sampler.generate(asked(SLOTS, settings=dataclasses.replace(SETTINGS, stop=())))
    tokenizer = LetterTokenizer()
    reasons = set()
    for long, answer in zip(free, sampler.generate(asked(SLOTS)), strict=False):
        count = next(
            (
                n
                for n in range(1, len(long.token_ids) + 1)
                if tokenizer.decode(long.token_ids[:n]).endswith(SETTINGS.stop)
            ),
            len(long.token_ids),
        )
        assert answer.token_ids == long.token_ids[:count]
        assert answer.logprobs == long.logprobs[:count]
        assert answer.text == tokenizer.decode(answer.token_ids)
        stopped = answer.text.endswith(SETTINGS.stop)
        ended = answer.token_ids[-1] == tokenizer.eos_id
        expected = "stop_string" if stopped else "stop" if ended else "length"
        assert answer.finish_reason == expected
        reasons.add(expected)
        if expected == "length":
            assert len(answer.token_ids) == SETTINGS.max_tokens
    assert {"stop_string", "length"} <= reasons


def test_an_answer_that_the_device_stopped_is_decoded_once(model):
    class Counting(LetterTokenizer):
        decoded = 0

        def decode(self, ids):
            self.decoded += len(ids) > 2  # not the table's single tokens
            return super().decode(ids)

    tokenizer = Counting()
    sampler = Sampler(model, tokenizer, SLOTS, CONTEXT, seed=3, buckets=(32, CONTEXT))
    rows = asked(SLOTS)
    answers = zip(rows, sampler.generate(rows), strict=True)
    stopped = [row for row, answer in answers if answer.finish_reason == "stop_string"]
    tokenizer.decoded = 0
    assert max(len(answer.token_ids) for answer in sampler.generate(stopped)) > 4
    assert tokenizer.decoded <= len(stopped)


def test_end_of_turn_ends_and_is_kept_in_the_ids():
    model = tiny_decoder()
    head = model.embed.get_value()
    model.embed.set_value(head.at[LetterTokenizer.eos_id].mul(6.0))
    sampler = Sampler(model, LetterTokenizer(), 8, 32, seed=0)
    settings = SamplingSettings(max_tokens=16)
    rows = [Generation([9, 10 + i], settings, RequestKey(i, 0, "log", 0)) for i in range(8)]
    ended = [a for a in sampler.generate(rows) if a.finish_reason == "stop"]
    assert ended
    for answer in ended:
        assert answer.token_ids[-1] == 4 and 4 not in answer.token_ids[:-1]
        assert answer.text == LetterTokenizer().decode(answer.token_ids[:-1])


def test_a_full_context_and_one_token_too_many(sampler):
    settings = SamplingSettings(max_tokens=16)
    key = RequestKey(0, 0, "log", 0)
    full = [Generation([7] * 80, settings, key)]
    assert 1 <= len(sampler.generate(full)[0].token_ids) <= 16
    with pytest.raises(ValueError, match="81 tokens leaves no room for max_tokens 16.*96"):
        sampler.generate([Generation([7] * 81, settings, key)])
    with pytest.raises(ValueError, match="adapter 2"):
        sampler.generate([Generation([7], settings, key, 2)])
    with pytest.raises(ValueError, match="prompt of 0"):
        sampler.generate([Generation([], settings, key)])
