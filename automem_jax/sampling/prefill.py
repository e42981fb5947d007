"""The prompt pass: prompts in fixed lengths ("buckets"), their keys and values into the cache.

Axes: P prefill rows, W bucket length, B slots, S cache positions, V vocab.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from automem_jax.models.decoder import Decoder
from automem_jax.models.kv_cache import KVCache

PREFILL_TOKENS = 2048
MAX_PREFILL_ROWS = 16


def default_buckets(max_context: int) -> tuple[int, ...]:
    """64, 96, 128, 192, 256, 384, ... up to and with max_context."""
    buckets, size = [], 64
    while size < max_context:
        buckets += [size, size * 3 // 2]
        size *= 2
    return (*[b for b in buckets if b < max_context], max_context)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length` tokens: it depends on this prompt alone."""
    return next(b for b in buckets if b >= length)


def prefill_rows(bucket: int, slots: int) -> int:
    """Rows of one prefill call, a function of bucket and slots alone."""
    return max(1, min(slots, MAX_PREFILL_ROWS, PREFILL_TOKENS // bucket))


def pad_prompts(
    prompts: Sequence[Sequence[int]], rows: int, bucket: int
) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded tokens [P, W] and lengths [P]; missing rows repeat the first prompt."""
    prompts = [*prompts, *[prompts[0]] * (rows - len(prompts))]
    tokens = np.zeros((rows, bucket), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, bucket - len(prompt) :] = prompt
    return tokens, np.asarray([len(prompt) for prompt in prompts], np.int32)


def prefill(
    model: Decoder,
    cache: KVCache,
    logits: Float[Array, "B V"],
    tokens: Int[Array, "P W"],
    lengths: Int[Array, " P"],
    slots: Int[Array, " P"],
    adapter_ids: Int[Array, " P"] | None,
) -> tuple[KVCache, Float[Array, "B V"]]:
    """Runs prompts and puts row p's state and last logits into slot slots[p].

    Rows may name one slot twice if they hold the same prompt. The cache's `lengths` and `step` are left.
    """
    rows, width = tokens.shape
    size = cache.values[0].shape[2]
    index = jnp.arange(width)[None, :] - (width - lengths)[:, None]
    hidden, (keys, values) = model.hidden(
        tokens, jnp.maximum(index, 0), (index >= 0).astype(jnp.int32), adapter_ids
    )
    last = model.unembed(hidden[:, -1])
    keys = keys.swapaxes(3, 4)  # [L, P, K, C, W], as the cache keeps keys

    def put(row, state):
        all_keys, all_values, all_logits = state
        take = lambda x: jax.lax.dynamic_slice_in_dim(x, row, 1, axis=0)  # noqa: E731
        slot = slots[row]
        at_k, at_v = (slot, 0, 0, size - width), (slot, 0, size - width, 0)
        update = jax.lax.dynamic_update_slice
        return (
            tuple(update(old, take(new), at_k) for old, new in zip(all_keys, keys, strict=False)),
            tuple(
                update(old, take(new), at_v) for old, new in zip(all_values, values, strict=False)
            ),
            update(all_logits, take(last), (slot, 0)),
        )

    new_keys, new_values, logits = jax.lax.fori_loop(
        0, rows, put, (cache.keys, cache.values, logits)
    )
    return KVCache(new_keys, new_values, cache.lengths, cache.step), logits
