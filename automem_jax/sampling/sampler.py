"""The sampler: prompts and settings in, tokens with log-probabilities out.

The number of slots is fixed when compiled and idle slots are padded, each prompt's bucket follows from that
prompt alone, and randomness from the request's key: so a row's tokens do not depend on what
else is in its batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from automem_jax.models.decoder import Decoder
from automem_jax.models.kv_cache import empty_cache
from automem_jax.sampling.decode import END_OF_TURN, STOP_STRING, Rows, decode
from automem_jax.sampling.prefill import (
    bucket_of,
    default_buckets,
    pad_prompts,
    prefill,
    prefill_rows,
)
from automem_jax.sampling.stop_strings import StopStrings
from automem_jax.sampling.token_choice import ChoiceSettings, key_words
from automem_jax.text.messages import RequestKey, SamplingSettings
from automem_jax.text.tokenizer import Tokenizer


class Generation(NamedTuple):
    """One generation asked of the sampler. adapter_id 0 is the base, i the model's adapter i."""

    prompt: Sequence[int]
    settings: SamplingSettings
    key: RequestKey
    adapter_id: int = 0


class Generated(NamedTuple):
    """One answer: ids with the end-of-turn token where sampled, log-probabilities at temperature 1.

    finish_reason is "stop" (end of turn), "stop_string" or "length". `text` leaves the end-of-turn
    token out and keeps the stop string.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str


class Sampler:
    """Generates with one model in batches of up to `slots` rows.

    Args:
      model: the decoder, with or without resident adapters. Its weights are read at construction.
      tokenizer: gives eos_id and the text of tokens.
      slots: rows of the compiled decode loop.
      max_context: prompt plus generated tokens that a row can hold.
      seed: the run's seed.
      buckets: compiled prompt lengths, ascending; the last must be max_context.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        slots: int,
        max_context: int,
        seed: int,
        buckets: Sequence[int] | None = None,
    ):
        self.slots, self.max_context = slots, max_context
        self.buckets = tuple(buckets or default_buckets(max_context))
        if list(self.buckets) != sorted(self.buckets) or self.buckets[-1] != max_context:
            raise ValueError(
                f"buckets {self.buckets} must ascend and end with max_context {max_context}"
            )
        self._tokenizer = tokenizer
        self._seed = np.uint32(seed & 0xFFFFFFFF)
        self._adapters = model.adapter_count
        self._vocab_size = model.config.vocab_size
        self._graphdef, self._state = nnx.split(model)
        self._stops = StopStrings(tokenizer, model.config.vocab_size)
        dtype = model.embed.get_value().dtype
        self._cache = empty_cache(model.config, slots, max_context, dtype)
        self._logits = jnp.zeros((slots, self._vocab_size), jnp.float32)
        self._prefill = jax.jit(self._run_prefill, donate_argnums=(1, 2))
        self._decode = jax.jit(
            self._run_decode, donate_argnums=(1,), static_argnames=("needs_sort", "use_adapters")
        )

    def generate(self, generations: Sequence[Generation]) -> list[Generated]:
        """Answers in the order asked.

        Raises:
          ValueError: an empty prompt, a prompt without room for max_tokens, or an unknown adapter.
        """
        for number, generation in enumerate(generations):
            self._check(number, Generation(*generation))
        answers: list[Generated] = []
        for start in range(0, len(generations), self.slots):
            batch = [Generation(*g) for g in generations[start : start + self.slots]]
            answers += self._batch(batch)
        return answers

    def compiled(self) -> dict[str, int]:
        """How many programs were compiled: prefill (one a bucket) and decode."""
        return {"prefill": self._prefill._cache_size(), "decode": self._decode._cache_size()}

    def _batch(self, batch: list[Generation]) -> list[Generated]:
        self._stops.add({stop for g in batch for stop in g.settings.stop})
        use_adapters = self._use_adapters(batch)
        by_bucket: dict[int, list[int]] = {}
        for slot, generation in enumerate(batch):
            by_bucket.setdefault(bucket_of(len(generation.prompt), self.buckets), []).append(slot)
        cache, logits = self._cache, self._logits
        for bucket, members in sorted(by_bucket.items()):
            rows = prefill_rows(bucket, self.slots)
            for start in range(0, len(members), rows):
                slots = members[start : start + rows]
                tokens, lengths = pad_prompts([batch[s].prompt for s in slots], rows, bucket)
                slots = np.asarray([*slots, *[slots[0]] * (rows - len(slots))], np.int32)
                adapters = None
                if use_adapters:
                    adapters = np.asarray([batch[s].adapter_id for s in slots], np.int32)
                cache, logits = self._prefill(
                    self._state, cache, logits, tokens, lengths, slots, adapters
                )
        needs_sort = any(g.settings.top_p < 1 or g.settings.top_k > 0 for g in batch)
        self._cache, *out = self._decode(
            self._state,
            cache,
            logits,
            self._rows(batch),
            self._stops.table,
            self._seed,
            needs_sort=needs_sort,
            use_adapters=use_adapters,
        )
        self._logits = logits
        tokens, logprobs, counts, ended = jax.device_get(out)
        return [
            self._answer(g, tokens[i, : counts[i]], logprobs[i, : counts[i]], int(ended[i]))
            for i, g in enumerate(batch)
        ]

    def _use_adapters(self, batch: list[Generation]) -> bool:
        """Whether the program with adapters runs.

        On CPU a base row has the same bits in either program (tested), so an all-base batch takes the
        cheaper one; elsewhere that is not known, so one program serves all.
        """
        if jax.default_backend() == "cpu":
            return any(g.adapter_id for g in batch)
        return self._adapters > 0

    def _run_prefill(self, state, cache, logits, tokens, lengths, slots, adapter_ids):
        model = nnx.merge(self._graphdef, state)
        return prefill(model, cache, logits, tokens, lengths, slots, adapter_ids)

    def _run_decode(self, state, cache, logits, rows, stops, seed, *, needs_sort, use_adapters):
        model = nnx.merge(self._graphdef, state)
        run = functools.partial(decode, eos_id=self._tokenizer.eos_id, needs_sort=needs_sort)
        end = run(model, cache, logits, rows, stops, seed, use_adapters=use_adapters)
        return end.cache, end.tokens, end.logprobs, end.counts, end.ended

    def _rows(self, batch: list[Generation]) -> Rows:
        def column(values, dtype, idle=0):
            return np.asarray([*values, *[idle] * (self.slots - len(batch))], dtype)

        settings = [g.settings for g in batch]
        words = np.zeros((self.slots, 4), np.uint32)
        words[: len(batch)] = [key_words(g.key) for g in batch]
        return Rows(
            lengths=column([len(g.prompt) for g in batch], np.int32),
            max_tokens=column([s.max_tokens for s in settings], np.int32),
            stop_mask=column([self._stops.mask(s.stop) for s in settings], np.int32),
            adapter_ids=column([g.adapter_id for g in batch], np.int32),
            choice=ChoiceSettings(
                temperature=column([s.temperature for s in settings], np.float32),
                top_p=column([s.top_p for s in settings], np.float32, 1.0),
                top_k=column([s.top_k for s in settings], np.int32),
                min_p=column([s.min_p for s in settings], np.float32),
                key=words,
            ),
        )

    def _answer(self, generation, tokens, logprobs, ended: int) -> Generated:
        ids = [int(t) for t in tokens]
        text = self._tokenizer.decode(ids[:-1] if ended == END_OF_TURN else ids)
        reason = {END_OF_TURN: "stop", STOP_STRING: "stop_string"}.get(ended, "length")
        stop = generation.settings.stop
        found = ended == STOP_STRING and text.endswith(stop) and self._stops.covers(stop)
        if not found and any(string in text for string in stop):
            for count in range(1, len(ids) + (ended != END_OF_TURN)):
                begun = self._tokenizer.decode(ids[:count])
                if begun.endswith(stop):
                    ids, text, reason = ids[:count], begun, "stop_string"
                    break
        return Generated(tuple(ids), tuple(float(p) for p in logprobs[: len(ids)]), text, reason)

    def _check(self, number: int, generation: Generation) -> None:
        prompt, settings = generation.prompt, generation.settings
        if not len(prompt) or settings.max_tokens < 1:
            raise ValueError(
                f"generation {number}: prompt of {len(prompt)} tokens with max_tokens "
                f"{settings.max_tokens}; both must be at least 1"
            )
        if len(prompt) + settings.max_tokens > self.max_context:
            raise ValueError(
                f"generation {number}: prompt of {len(prompt)} tokens leaves no room for "
                f"max_tokens {settings.max_tokens} within max_context {self.max_context}; shorten "
                "the prompt or raise max_context"
            )
        if not 0 <= generation.adapter_id <= self._adapters:
            raise ValueError(
                f"generation {number}: adapter {generation.adapter_id} is not loaded; this model "
                f"has {self._adapters}"
            )
