"""Attention state of a decode batch.

Axes: L layers, B slots, K kv heads, S cache positions, C head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from automem_jax.models.config import DecoderConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of prompts and generated tokens, one row a slot.

    A prompt of n tokens lies right-aligned in [S - n, S); generated token t lies at index t. So all
    rows write the same index in one step, and a row has room as long as n + generated <= S.

    Attributes:
      keys: rotated keys, L arrays [B, K, C, S], model dtype, any finite value where not valid. One
        array a layer, so that a decode step updates it in place; C before S suits the product.
      values: values, L arrays [B, K, S, C], likewise.
      lengths: prompt tokens of each slot, [B] int32, 0 (empty slot) .. S.
      step: generated tokens already written, [] int32, 0 .. S - max(lengths of unfinished slots).
        The token that is being written at `step` is visible to itself.
    """

    keys: tuple[Float[Array, "B K C S"], ...]
    values: tuple[Float[Array, "B K S C"], ...]
    lengths: Int[Array, " B"]
    step: Int[Array, ""]

    def valid(self) -> Bool[Array, "B S"]:
        """Which cache positions the token written at `step` may see: itself, and what is before it."""
        size = self.values[0].shape[2]
        index = jnp.arange(size)
        return (index[None, :] >= size - self.lengths[:, None]) | (index <= self.step)[None, :]


def empty_cache(config: DecoderConfig, slots: int, size: int, dtype=jnp.float32) -> KVCache:
    """A cache of `slots` empty rows with `size` positions each."""
    lead = (slots, config.num_kv_heads)
    layers = range(config.num_layers)
    return KVCache(
        keys=tuple(jnp.zeros((*lead, config.head_dim, size), dtype) for _ in layers),
        values=tuple(jnp.zeros((*lead, size, config.head_dim), dtype) for _ in layers),
        lengths=jnp.zeros((slots,), jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )
