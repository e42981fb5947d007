import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from models.test_lora import random_adapter
from models.tiny import tiny_decoder
from sampling.letters import LetterTokenizer

from automem_jax.models import logits
from automem_jax.models.lora import AdapterError, merge, with_adapters
from automem_jax.sampling import engine as engine_module
from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import GenerationRequest, QueueFull, random_key
from automem_jax.text.messages import RequestKey, SamplingSettings

CONTEXT = 160
SETTINGS = SamplingSettings(max_tokens=12, min_p=0.02, temperature=0.9)


@pytest.fixture(scope="module")
def base():
    return tiny_decoder()


@pytest.fixture(scope="module")
def adapters(base):
    return {"first": random_adapter(base, 1), "second": random_adapter(base, 2)}


def make(base, slots=8, **changes):
    settings = {"max_context": CONTEXT, "block_tokens": 32} | changes
    return Engine(base, LetterTokenizer(), slots=slots, **settings)


@pytest.fixture(scope="module")
def engine(base, adapters):
    return make(base, adapters=adapters)


def key(number):
    return RequestKey(number, number % 5, "plan" if number % 2 else "log", 0)


def asked(count, adapter=None, settings=SETTINGS, **changes):
    """Prompts of 3 .. 139 tokens, most with a prefix that others have too."""
    rng = np.random.default_rng(0)
    shared = rng.integers(5, 42, 90).tolist()
    requests = []
    for number, length in enumerate(rng.integers(3, 50, count)):
        begin = shared[: int(rng.integers(0, 90))] if number % 3 else []
        prompt = begin + rng.integers(5, 42, int(length)).tolist()
        which = adapter[number % len(adapter)] if isinstance(adapter, tuple) else adapter
        requests.append(
            GenerationRequest(
                number, prompt, settings, random_key(3, key(number)), which, **changes
            )
        )
    return requests


def same(answers):
    """What of answers must not depend on company or cache."""
    return [(a.token_ids, a.logprobs, a.text, a.finish_reason) for a in answers]


MIXED = (None, "first", "second")


def test_answers_are_the_same_bits_in_any_company_and_with_any_cache(base, adapters, engine):
    requests = asked(24, MIXED)
    answers = same(engine.generate(requests))
    assert len(set(answers)) == 24
    assert same(engine.generate(requests)) == answers  # now from the cache
    assert engine.counters()["reused_tokens"] > 0
    order = np.random.default_rng(1).permutation(24)
    shuffled = same(engine.generate([requests[i] for i in order]))
    assert shuffled == [answers[i] for i in order]
    for slots, reuse in ((1, True), (8, False), (64, True)):
        other = make(base, slots, adapters=adapters, prefix_reuse=reuse)
        assert same(other.generate(requests)) == answers, (slots, reuse)
        counters = other.counters()
        assert counters["blocks_used"] == 0 and (counters["blocks_cached"] > 0) == reuse
    small = make(base, 2, adapters=adapters, cache_blocks=6)
    assert same(small.generate(requests)) == answers
    assert small.counters()["blocks_evicted"] > 0


def test_a_row_that_is_laid_out_anew_goes_on_as_before(monkeypatch):
    """Because a longer request joins it, or because more decode than a program has rows."""
    wide = tiny_decoder(max_position=1024)
    settings = SamplingSettings(max_tokens=100, temperature=0.9)
    first, joins = (
        GenerationRequest(number, [5 + i % 37 for i in range(length)], settings, (number,) * 5)
        for number, length in enumerate((50, 300))
    )
    expected = same(make(wide, max_context=600).generate([first]))
    assert len(expected[0][0]) > 60
    engine = make(wide, max_context=600)
    engine.submit(first)
    drawn = 0
    while drawn < 30:
        drawn += sum(len(event.token_ids) for event in engine.step())
    engine.submit(joins)
    finished = {}
    while not engine.idle():
        finished |= {e.id: e.finished for e in engine.step() if e.finished is not None}
    assert same([finished[0]]) == expected

    monkeypatch.setattr(engine_module, "_CPU_ROWS_SMALL", 2)
    requests = asked(7, settings=settings)
    requests = [dataclasses.replace(r, prompt_ids=r.prompt_ids[:50]) for r in requests]
    in_turn = same(make(wide, 2).generate(requests))
    assert same(make(wide, 7).generate(requests)) == in_turn


def full_pass(model, ids):
    """Logits [T, V] of a sequence, by one pass over it."""
    padded = np.pad(np.array([ids]), ((0, 0), (0, CONTEXT - len(ids))))
    segments = (np.arange(CONTEXT) < len(ids)).astype(np.int32)[None]
    return logits(model, padded, segments)[0, : len(ids)]


@pytest.fixture(scope="module")
def joined(base, adapters):
    """As on accelerators."""
    return make(base, joined=True, adapters=adapters)


@pytest.mark.parametrize("kind", ["engine", "joined"])
def test_greedy_follows_the_argmax_of_the_full_pass(base, kind, request):
    greedy = SamplingSettings(temperature=0.0, max_tokens=8)
    asked_now = asked(3, settings=greedy)
    for one, answer in zip(
        asked_now, request.getfixturevalue(kind).generate(asked_now), strict=True
    ):
        out = full_pass(base, [*one.prompt_ids, *answer.token_ids])
        chosen = np.argmax(out[len(one.prompt_ids) - 1 : -1], axis=-1)
        assert tuple(chosen) == answer.token_ids


def test_a_joined_cache_answers_as_the_other_does(engine, joined):
    requests = asked(16, MIXED)
    first = joined.generate(requests)
    for one, other in zip(engine.generate(requests), first, strict=True):
        assert one.token_ids == other.token_ids and one.text == other.text
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    again = joined.generate(requests[::-1])[::-1]  # from the cache
    assert same(again) == same(first) and joined.counters()["reused_tokens"] > 0


def test_an_adapter_leaves_nothing_behind(base, adapters):
    """One with fewer projections in columns that one with all of them had."""
    attention = random_adapter(base, 3, targets="attention")
    engine = make(base, max_adapters=1, adapters={"a": adapters["first"]})
    engine.unload_adapter("a")
    engine.load_adapter("b", attention)
    requests = asked(4, "b")
    merged = merge(with_adapters(base, [attention]), 1)
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        out = full_pass(merged, [*request.prompt_ids, *answer.token_ids])
        likelihoods = jax.nn.log_softmax(out)[len(request.prompt_ids) - 1 :]
        expected = [likelihoods[t, token] for t, token in enumerate(answer.token_ids)]
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)


def test_stopping_equals_checking_the_text_after_every_token(engine):
    tokenizer, stop = LetterTokenizer(), ("a", "</a>", "b<")
    free = engine.generate(asked(24))
    stopping = dataclasses.replace(SETTINGS, stop=stop)
    reasons = set()
    for long, answer in zip(free, engine.generate(asked(24, settings=stopping)), strict=True):
        ends = (
            n
            for n in range(1, len(long.token_ids) + 1)
            if any(word in tokenizer.decode(long.token_ids[:n]) for word in stop)
        )
        count = next(ends, len(long.token_ids))
        assert answer.token_ids == long.token_ids[:count]
        assert answer.logprobs == long.logprobs[:count]
        reasons.add(answer.finish_reason)
    assert {"stop_string", "length"} <= reasons


def test_end_of_turn_ends_and_is_kept_in_the_ids():
    model = tiny_decoder()
    head = model.embed.get_value()
    model.embed.set_value(head.at[LetterTokenizer.eos_id].mul(6.0))
    answers = make(model).generate(asked(8))
    ended = [a for a in answers if a.finish_reason == "stop"]
    assert ended
    for answer in ended:
        assert answer.token_ids[-1] == 4 and 4 not in answer.token_ids[:-1]
        assert answer.text == LetterTokenizer().decode(answer.token_ids[:-1])


@pytest.mark.parametrize("name", MIXED)
def test_rows_of_a_mixed_batch_equal_merged_weights(base, adapters, engine, name):
    model = base if name is None else merge(with_adapters(base, [adapters[name]]), 1)
    requests = asked(9, MIXED)
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        if request.adapter != name:
            continue
        whole = [*request.prompt_ids, *answer.token_ids]
        likelihoods = jax.nn.log_softmax(full_pass(model, whole))
        first = len(request.prompt_ids) - 1
        expected = [likelihoods[first + t, token] for t, token in enumerate(answer.token_ids)]
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)


def test_every_program_is_traced_once(base, adapters, monkeypatch):
    for name in ("prefill_chunks", "decode_burst"):
        limited = chex.assert_max_traces(getattr(engine_module, name), n=2)
        monkeypatch.setattr(engine_module, name, limited)
    engine = make(base, adapters=adapters)
    for count in (1, 3, 11):
        engine.generate(asked(count))
        engine.generate(asked(count, MIXED))
        engine.generate(asked(count, settings=dataclasses.replace(SETTINGS, top_p=0.5, top_k=7)))
    # Rows laid out and kept, and chunks and bursts without and with adapters.
    assert engine.counters()["programs"] == 6


def test_events_join_to_the_answer_and_requests_come_and_go(engine):
    requests = asked(14, MIXED, dataclasses.replace(SETTINGS, stop=("a", "</a>")))
    expected = engine.generate(requests)
    joined = {r.id: ([], [], "") for r in requests}
    finished, waiting = {}, list(requests)
    while waiting or not engine.idle():
        for request in waiting[:2]:
            engine.submit(request)
        del waiting[:2]
        for event in engine.step():
            ids, logprobs, text = joined[event.id]
            ids += event.token_ids
            logprobs += event.logprobs
            joined[event.id] = ids, logprobs, text + event.text
            if event.finished is not None:
                assert event.id not in finished
                finished[event.id] = event.finished
    assert same([finished[r.id] for r in requests]) == same(expected)
    for request in requests:
        ids, logprobs, text = joined[request.id]
        answer = finished[request.id]
        assert (tuple(ids), tuple(logprobs), text) == (
            answer.token_ids,
            answer.logprobs,
            answer.text,
        )
        if answer.finish_reason == "stop_string":
            assert answer.text.endswith("a") or answer.text.endswith("</a>")
    assert {a.finish_reason for a in expected} >= {"stop_string"}


def test_cancelling_at_any_time_leaks_nothing_and_changes_nobody(base, engine):
    requests = asked(20, MIXED)
    expected = dict(zip((r.id for r in requests), engine.generate(requests), strict=True))
    rng = np.random.default_rng(2)
    before = engine.counters()
    for request in requests:
        engine.submit(request)
    finished = {}
    while not engine.idle():
        finished |= {e.id: e.finished for e in engine.step() if e.finished}
        gone = int(rng.integers(0, 20))
        engine.cancel(gone)
        assert not engine.cancel(gone)
    assert engine.counters()["blocks_used"] == 0
    assert 0 < engine.counters()["cancelled"] - before["cancelled"] < 20
    assert same(finished.values()) == same(expected[id] for id in finished)
    assert engine.generate(requests) and same(engine.generate(requests)) == same(expected.values())


def test_adapters_come_and_go_while_it_runs(base, adapters):
    engine = make(base, max_adapters=2, adapters={"a": adapters["first"]})
    old = same(engine.generate(asked(6, "a")))
    plain = same(engine.generate(asked(6)))
    for request in asked(6, "a"):
        engine.submit(request)
    events = engine.step()
    engine.load_adapter("a", adapters["second"])  # those that run keep the older one
    new = asked(6, "a")
    for request in new:
        engine.submit(dataclasses.replace(request, id=("new", request.id)))
    done = {e.id: e.finished for e in events if e.finished}
    while not engine.idle():
        done |= {e.id: e.finished for e in engine.step() if e.finished}
    assert [(done[i].token_ids, done[i].text) for i in range(6)] == [(o[0], o[2]) for o in old]
    fresh = same(make(base, adapters={"b": adapters["second"]}).generate(asked(6, "b")))
    loaded = [done["new", i] for i in range(6)]
    assert [a.token_ids for a in loaded] == [f[0] for f in fresh] != [o[0] for o in old]
    assert same(engine.generate(asked(6))) == plain
    assert list(engine.adapters()) == ["a"]
    engine.load_adapter("c", adapters["first"])
    with pytest.raises(AdapterError, match="no more than 2"):
        engine.load_adapter("d", adapters["first"])
    with pytest.raises(AdapterError, match="another base"):
        engine.load_adapter("c", random_adapter(tiny_decoder(d_model=64), 1))
    engine.unload_adapter("a")
    with pytest.raises(ValueError, match="'a' is not loaded; there are: c"):
        engine.submit(asked(1, "a")[0])


def test_top_logprobs_are_of_the_full_distribution(engine):
    greedy = SamplingSettings(temperature=0.0, max_tokens=5)
    (answer,) = engine.generate(asked(1, settings=greedy, top_logprobs=3))
    assert [len(top) for top in answer.top_logprobs] == [3] * 5
    for token, logprob, top in zip(
        answer.token_ids, answer.logprobs, answer.top_logprobs, strict=True
    ):
        assert top[0][0] == token and top[0][1] == pytest.approx(logprob, abs=1e-5)
        assert top[0][1] >= top[1][1] >= top[2][1]


def test_int8_cache_is_close_and_does_not_depend_on_company(base):
    engine = make(base, kv_dtype="int8")
    requests = asked(12)
    together = same(engine.generate(requests))
    assert [same(engine.generate([r]))[0] for r in requests] == together
    assert same(make(base, burst=3, kv_dtype="int8").generate(requests)) == together
    exact = make(base).generate(requests)
    close = [
        np.abs(np.subtract(e.logprobs[0], t[1][0])) for e, t in zip(exact, together, strict=True)
    ]
    assert 0 < max(close) < 0.2


def test_what_can_never_run_is_refused_and_the_queue_is_bounded(base):
    engine = make(base, 1, queue_limit=2)
    full = asked(1)[0]
    for changes, words in (
        ({"prompt_ids": []}, "prompt of 0"),
        ({"prompt_ids": [7] * 149}, "149 tokens leaves no room for max_tokens 12.*160"),
        ({"prompt_ids": [64]}, "outside 0 .. 63"),
        ({"adapter": "x"}, "'x' is not loaded; there are: none"),
        ({"sampling": dataclasses.replace(SETTINGS, top_p=0.0)}, "top_p 0.0"),
        ({"sampling": dataclasses.replace(SETTINGS, stop=("",))}, "empty stop"),
        ({"top_logprobs": 21}, "top_logprobs 21"),
        ({"key": (0, 1)}, "five unsigned"),
    ):
        with pytest.raises(ValueError, match=words):
            engine.submit(dataclasses.replace(full, **changes))
    engine.submit(dataclasses.replace(full, prompt_ids=[7] * 148))
    engine.submit(dataclasses.replace(full, id=1))
    with pytest.raises(QueueFull):
        engine.submit(dataclasses.replace(full, id=2))
    engine.cancel(0), engine.cancel(1)
    assert engine.idle() and engine.counters()["queued"] == 0


def test_meshes_of_data_and_tensor_answer_as_one_device():
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    done = subprocess.run(
        [sys.executable, str(tests / "sampling" / "engine_eight_devices.py")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("equal")
