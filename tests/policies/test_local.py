import numpy as np
import pytest
from models.test_lora import random_adapter
from models.tiny import tiny_decoder
from sampling.letters import LetterTokenizer

from automem_jax.models.weights import base_hash
from automem_jax.policies.local import LocalPolicy
from automem_jax.text import chat
from automem_jax.text.messages import Message, Request, RequestKey, SamplingSettings

SETTINGS = SamplingSettings(max_tokens=8)


def requests(role, count=6):
    return [
        Request(
            role,
            (Message("system", "play"), Message("user", "see " + "abc"[i % 3] * (i + 1))),
            SETTINGS,
            RequestKey(i, 0, "log", 0),
        )
        for i in range(count)
    ]


def policy(adapter=None, **changes):
    settings = dict(slots=8, max_context=64, run_seed=1) | changes
    return LocalPolicy(tiny_decoder(), LetterTokenizer(), adapter=adapter, **settings)


def test_memory_goes_to_the_adapter_and_gameplay_always_to_the_base():
    plain = policy()
    special = policy(random_adapter(tiny_decoder(), 1))
    base = plain.complete(requests("gameplay"))
    assert plain.complete(requests("memory")) == base
    assert special.complete(requests("gameplay")) == base
    memory = special.complete(requests("memory"))
    assert sum(a != b for a, b in zip(memory, base, strict=False)) >= 4
    mixed = [
        r for pair in zip(requests("memory"), requests("gameplay"), strict=False) for r in pair
    ]
    answers = special.complete(mixed)
    assert answers[::2] == memory and answers[1::2] == base


def test_completions_usage_and_identity():
    adapter = random_adapter(tiny_decoder(), 1)
    special = policy(adapter)
    asked = requests("memory", 3)
    answers = special.complete(asked)
    for request, answer in zip(asked, answers, strict=False):
        prompt = chat.render(request.messages, LetterTokenizer(), add_generation_prompt=True)
        assert answer.prompt_tokens == len(prompt)
        assert answer.completion_tokens == len(answer.token_ids) == len(answer.logprobs) > 0
        assert np.all(np.asarray(answer.logprobs) <= 0) and answer.error is None
    assert (special.usage.requests, special.usage.calls) == (3, 1)
    assert special.usage.completion_tokens == sum(a.completion_tokens for a in answers)
    assert special.usage.seconds > 0
    described = special.describe()
    assert described["kind"] == "local"
    assert described["base_hash"] == base_hash(tiny_decoder())
    assert described["adapter_hash"] == adapter.hash()
    assert policy().describe()["adapter_hash"] is None


def test_what_does_not_fit_is_refused():
    tight = policy(max_context=16)
    refused = tight.complete(requests("memory", 1))[0]
    assert refused.finish_reason == "error" and "max_context 16" in refused.error
    with pytest.raises(ValueError, match="256 positions"):
        policy(max_context=512)
    tight.close()
    with pytest.raises(RuntimeError, match="closed"):
        tight.complete([])
