"""Attention state in blocks that requests share, and attention over it.

Block 0 belongs to nobody: rows that are padding write there. Sums over cached tokens always run over
parts of PART tokens, one part after the other, and what a row may not see adds exact zeros: so a result
has the same bits however long the other rows are, and whichever blocks the same tokens lie in.

Axes: L layers, P rows, W tokens of a row, K kv heads, G query heads of one, C head_dim, N blocks,
U tokens of a block, J blocks of a table, S = J U source positions, I parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from automem_jax.models.attention import NEGATIVE
from automem_jax.models.config import DecoderConfig
from automem_jax.sharding import constrain

PART = 256
PAGE_AXES = ("act_kv_heads", None, None, None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PagedLayer:
    """One layer's blocks.

    Attributes:
      keys: [K, N, C, U], rotated; C before U suits the product and makes laying them out cheap.
      values: [K, N, U, C]. Both in the model's dtype, or int8.
      key_scales [K, N, 1, U], value_scales [K, N, U, 1]: float32 for int8, value = code * scale; else
        None.
    """

    keys: Array
    values: Array
    key_scales: Array | None = None
    value_scales: Array | None = None


PagedCache = tuple[PagedLayer, ...]


def empty_paged_cache(
    config: DecoderConfig, blocks: int, block_tokens: int, dtype=jnp.float32, *, int8: bool = False
) -> PagedCache:
    """A cache of `blocks` blocks (block 0 included), one PagedLayer a layer.

    Raises:
      ValueError: block_tokens does not divide PART.
    """
    if block_tokens < 1 or PART % block_tokens:
        raise ValueError(f"block_tokens {block_tokens} must divide {PART}")
    lead, width = (config.num_kv_heads, blocks), config.head_dim
    kind = jnp.int8 if int8 else dtype

    def layer() -> PagedLayer:
        keys = jnp.zeros((*lead, width, block_tokens), kind)
        values = jnp.zeros((*lead, block_tokens, width), kind)
        if not int8:
            return PagedLayer(keys, values)
        scales = [
            jnp.zeros((*lead, *part), jnp.float32)
            for part in ((1, block_tokens), (block_tokens, 1))
        ]
        return PagedLayer(keys, values, *scales)

    return tuple(layer() for _ in range(config.num_layers))


def quantized(x: Array, axis: int = -1) -> tuple[Array, Array]:
    """(int8 codes, float32 scales) of vectors along an axis, which has length 1 in the scales.

    Scales have 8 significant bits, so that 127 scales are exact: what was quantised once comes out of a
    second time unchanged.
    """
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=axis, keepdims=True) / 127.0
    scale = scale.astype(jnp.bfloat16).astype(jnp.float32)
    codes = jnp.clip(jnp.round(x / jnp.where(scale == 0, 1.0, scale)), -127, 127)
    return codes.astype(jnp.int8), scale


def as_kept(layer: PagedLayer, x: Array) -> Array:
    """`x` as it comes back from the blocks of `layer`: rounded where they are int8."""
    if layer.key_scales is None:
        return x
    codes, scale = quantized(x)
    return (codes * scale).astype(x.dtype)


def with_blocks(
    layer: PagedLayer, blocks: Int[Array, " M"], k: Float[Array, "K M C U"], v: Array
) -> PagedLayer:
    """`layer` with whole blocks written, values [K, M, U, C]. A block named twice (0) gets either."""

    def put(pages, new):
        return constrain(pages.at[:, blocks].set(new.astype(pages.dtype)), PAGE_AXES)

    if layer.key_scales is None:
        return PagedLayer(put(layer.keys, k), put(layer.values, v))
    (k, k_scale), (v, v_scale) = quantized(k, 2), quantized(v, 3)
    return PagedLayer(
        put(layer.keys, k),
        put(layer.values, v),
        put(layer.key_scales, k_scale),
        put(layer.value_scales, v_scale),
    )


def blocks_of(layer: PagedLayer, table: Int[Array, "P J"], dtype) -> tuple[Array, Array]:
    """Keys [K, P, C, S] and values [K, P, S, C] of the blocks in `table`, in `dtype`."""
    rows, count = table.shape

    def take(pages):  # whole blocks as one stretch each: that is what a gather does fast
        flat = pages.reshape(*pages.shape[:2], -1)
        found = flat.at[:, table].get(mode="promise_in_bounds")
        return found.reshape(pages.shape[0], rows, count, *pages.shape[2:])

    def keys(pages):
        found = take(pages).transpose(0, 1, 3, 2, 4)
        return found.reshape(*found.shape[:3], -1)

    def values(pages):
        return take(pages).reshape(pages.shape[0], rows, -1, pages.shape[-1])

    k, v = keys(layer.keys), values(layer.values)
    if layer.key_scales is not None:
        k = k.astype(jnp.float32) * keys(layer.key_scales)
        v = v.astype(jnp.float32) * values(layer.value_scales)
    return k.astype(dtype), v.astype(dtype)


def attend_blocks(
    q: Float[Array, "P W K G C"],
    layer: PagedLayer,
    table: Int[Array, "P J"],
    starts: Int[Array, " P"],
    parts: Int[Array, ""],
) -> Float[Array, "P W K G C"]:
    """Attention of W new tokens a row, at positions starts .. starts + W - 1, over the row's blocks.

    Their own keys are in the blocks already. A running softmax walks over the first `parts` parts.
    """
    p, w, heads, g, c = q.shape
    per_part = PART // layer.values.shape[2]
    q = (q * c**-0.5).transpose(2, 0, 3, 1, 4).reshape(heads, p, g * w, c)
    position = jnp.tile(starts[:, None] + jnp.arange(w), (1, g))  # [P, G W]

    def part(index, state):
        top, total, out = state
        ids = jax.lax.dynamic_slice_in_dim(table, index * per_part, per_part, axis=1)
        k, v = blocks_of(layer, ids, q.dtype)
        scores = jnp.einsum("kpqc,kpcs->kpqs", q, k, preferred_element_type=jnp.float32)
        source = index * PART + jnp.arange(PART)
        scores = jnp.where(source <= position[..., None], scores, NEGATIVE)
        new_top = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
        weights, kept = jnp.exp(scores - new_top), jnp.exp(top - new_top)
        total = total * kept + jnp.sum(weights, axis=-1, keepdims=True)
        new = jnp.einsum(
            "kpqs,kpsc->kpqc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return new_top, total, out * kept + new

    column = (heads, p, g * w, 1)
    start = (
        jnp.full(column, NEGATIVE, jnp.float32),
        jnp.zeros(column, jnp.float32),
        jnp.zeros((heads, p, g * w, c), jnp.float32),
    )
    _, total, out = jax.lax.fori_loop(0, parts, part, start)
    out = (out / total).astype(q.dtype).reshape(heads, p, g, w, c)
    return out.transpose(1, 3, 0, 2, 4)


# Decoding -----------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """One layer's cached tokens of running rows, laid out for one new token at a time.

    Attributes:
      keys: [K, P, C, S]; values: [K, P, S, C]; S is a multiple of PART.
    """

    keys: Array
    values: Array


def rows_of(layer: PagedLayer, table: Int[Array, "P J"], dtype) -> Rows:
    """What the blocks in `table` hold."""
    return Rows(*blocks_of(layer, table, dtype))


def with_token(
    rows: Rows, positions: Int[Array, " P"], k: Float[Array, "P K 1 C"], v: Array
) -> Rows:
    """`rows` with one token a row written at its position."""

    def put(row, state):
        keys, values = state
        new_k = jax.lax.dynamic_slice_in_dim(k, row, 1).transpose(1, 0, 3, 2)
        new_v = jax.lax.dynamic_slice_in_dim(v, row, 1).transpose(1, 0, 2, 3)
        update, at = jax.lax.dynamic_update_slice, positions[row]
        return (
            update(keys, new_k.astype(keys.dtype), (0, row, 0, at)),
            update(values, new_v.astype(values.dtype), (0, row, at, 0)),
        )

    return Rows(*jax.lax.fori_loop(0, k.shape[0], put, (rows.keys, rows.values)))


def attend_rows(
    q: Float[Array, "P 1 K G C"], rows: Rows, positions: Int[Array, " P"]
) -> Float[Array, "P 1 K G C"]:
    """Attention of one token a row over what stands at positions 0 .. its own."""
    p, _, heads, g, c = q.shape
    size = rows.values.shape[2]
    parts = size // PART
    q = (q[:, 0] * c**-0.5).swapaxes(0, 1)
    scores = jnp.einsum("kpgc,kpcs->kpgs", q, rows.keys, preferred_element_type=jnp.float32)
    seen = jnp.arange(size) <= positions[:, None]
    scores = jnp.where(seen[None, :, None], scores, NEGATIVE)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    weights = weights.reshape(heads, p, g, parts, PART)
    v = rows.values.reshape(heads, p, parts, PART, c)
    total = in_order(jnp.sum(weights, axis=-1), 3)
    out = jnp.einsum(
        "kpgis,kpisc->kpigc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    out = in_order(out, 2) / total[..., None]
    return out.astype(q.dtype).swapaxes(0, 1)[:, None]


def in_order(x: Array, axis: int) -> Array:
    """The sum over `axis`, first to last: trailing zeros do not change its bits."""
    parts: Sequence[Array] = [jax.lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def rows_written(
    layer: PagedLayer, rows: Rows, table: Int[Array, "P J"], first: Int[Array, " P"], count: int
) -> PagedLayer:
    """`layer` with `count` blocks of each row, from its block `first` on, taken from `rows`.

    Blocks past the end of a table go to block 0.
    """
    tokens, size = layer.values.shape[2], table.shape[1]

    def put(index, layer):
        row, offset = index // count, index % count
        block = jnp.minimum(first[row] + offset, size - 1)
        target = jnp.where(first[row] + offset < size, table[row, block], 0)
        heads, _, width, _ = rows.keys.shape
        at = block * tokens
        cut = jax.lax.dynamic_slice
        k = cut(rows.keys, (0, row, 0, at), (heads, 1, width, tokens))
        v = cut(rows.values, (0, row, at, 0), (heads, 1, tokens, width))
        return with_blocks(layer, target[None], k, v)

    return jax.lax.fori_loop(0, table.shape[0] * count, put, layer)
