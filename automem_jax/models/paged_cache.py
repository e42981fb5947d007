"""Attention state in blocks that requests share, and attention over it.

Block 0 belongs to nobody: rows that are padding write there. Sums over cached tokens always run over
parts of so many tokens, one part after the other, and what a row may not see adds exact zeros: so a
result has the same bits however long the other rows are, and whichever blocks the same tokens lie in.

Two ways of holding it. On CPU each layer has its own `Pages`, and decoding first lays a row's tokens out
(`Rows`): products of plain arrays are what it does fast. On accelerators all layers share one `Pages`
(`joined`), block n of layer l being block l N + n of it, and decoding reads the blocks where they lie: a
scan over layers then neither copies nor holds anything twice.

Axes: L layers, P rows, W tokens of a row, K kv heads, G query heads of one, C head_dim, N blocks,
U tokens of a block, J blocks of a table, S = J U source positions, I parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from automem_jax import sharding
from automem_jax.models.attention import NEGATIVE
from automem_jax.models.config import DecoderConfig
from automem_jax.sharding import constrain

PART, JOINED_PART = 256, 2048  # tokens of a part
KERNEL_TOKENS = 512  # that the TPU kernel takes at a time
PAGE_AXES = ("act_kv_heads", None, None, None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pages:
    """Blocks of one layer, or of all layers one after the other (`joined`).

    Attributes:
      keys, values: [K, N, U, C] or, joined, [K, L N, U, C], in the model's dtype or int8; keys are rotated.
      key_scales, value_scales: float32 for int8, value = code * scale, with length 1 along C; else None.
      joined: as above; static.
    """

    keys: Array
    values: Array
    key_scales: Array | None = None
    value_scales: Array | None = None
    joined: bool = field(default=False, metadata={"static": True})

    @property
    def part(self) -> int:
        """Tokens that a step of a sum over cached tokens takes."""
        return JOINED_PART if self.joined else PART

    @property
    def block_tokens(self) -> int:
        return self.values.shape[2]


PagedCache = tuple[Pages, ...]  # a Pages a layer, or a joined one alone


def empty_paged_cache(
    config: DecoderConfig,
    blocks: int,
    block_tokens: int,
    dtype=jnp.float32,
    *,
    int8: bool = False,
    joined: bool = False,
) -> PagedCache:
    """A cache of `blocks` blocks a layer (block 0 included).

    Raises:
      ValueError: block_tokens does not divide PART.
    """
    if block_tokens < 1 or PART % block_tokens:
        raise ValueError(f"block_tokens {block_tokens} must divide {PART}")
    lead, width = (
        (config.num_kv_heads, blocks * (config.num_layers if joined else 1)),
        config.head_dim,
    )
    kind = jnp.int8 if int8 else dtype

    def pages() -> Pages:
        def pair(width, kind):
            return tuple(jnp.zeros((*lead, block_tokens, width), kind) for _ in range(2))

        scales = pair(1, jnp.float32) if int8 else (None, None)
        return Pages(*pair(width, kind), *scales, joined)

    return tuple(pages() for _ in range(1 if joined else config.num_layers))


def quantized(x: Array) -> tuple[Array, Array]:
    """(int8 codes, float32 scales) of vectors along the last axis, which has length 1 in the scales.

    Scales have 8 significant bits, so that 127 scales are exact: what was quantised once comes out of a
    second time unchanged.
    """
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / 127.0
    scale = scale.astype(jnp.bfloat16).astype(jnp.float32)
    codes = jnp.clip(jnp.round(x / jnp.where(scale == 0, 1.0, scale)), -127, 127)
    return codes.astype(jnp.int8), scale


def rounded(x: Array) -> Array:
    """`x` as it comes back from int8 blocks."""
    codes, scale = quantized(x)
    return (codes * scale).astype(x.dtype)


def with_blocks(
    layer: Pages, blocks: Int[Array, " M"], k: Float[Array, "K M U C"], v: Array
) -> Pages:
    """`layer` with whole blocks written. A block named twice (0) gets either."""

    def write(pages, new):
        if not (layer.joined and one_by_one()):
            return pages.at[:, blocks].set(new)
        zero = jnp.zeros_like(blocks)
        return _each(pages, new, (zero, blocks, zero, zero))

    return _put(layer, write, k, v)


def with_tokens(
    layer: Pages,
    blocks: Int[Array, " P"],
    offsets: Int[Array, " P"],
    k: Float[Array, "K P C"],
    v: Array,
) -> Pages:
    """A joined `layer` with a token a row written at its place in a block."""

    def write(pages, new):
        if not one_by_one():
            return pages.at[:, blocks, offsets].set(new)
        zero = jnp.zeros_like(blocks)
        return _each(pages, new[:, :, None], (zero, blocks, offsets, zero))

    return _put(layer, write, k, v)


def one_by_one() -> bool:
    """Whether what is new is written piece by piece: given a scatter, the TPU compiler copies all pages."""
    return sharding.platform() == "tpu"


def _each(pages: Array, new: Float[Array, "K M U C"], places: tuple[Array, ...]) -> Array:
    """`pages` with new[:, m] written at (places[0][m], ..., places[3][m])."""

    def one(index, pages):
        piece = jax.lax.dynamic_slice_in_dim(new, index, 1, axis=1)
        return jax.lax.dynamic_update_slice(pages, piece, tuple(place[index] for place in places))

    return jax.lax.fori_loop(0, new.shape[1], one, pages)


def _put(layer: Pages, write: Callable, k: Array, v: Array) -> Pages:
    """`layer` with keys and values [K, ..., C] in it; write(pages, new) gives the pages then."""
    given = (k, v, None, None)
    if layer.key_scales is not None:
        (k, k_scale), (v, v_scale) = quantized(k), quantized(v)
        given = (k, v, k_scale, v_scale)
    held = (layer.keys, layer.values, layer.key_scales, layer.value_scales)
    return Pages(
        *(
            None if new is None else constrain(write(old, new.astype(old.dtype)), PAGE_AXES)
            for old, new in zip(held, given, strict=True)
        ),
        layer.joined,
    )


def blocks_of(layer: Pages, table: Int[Array, "P J"], dtype) -> tuple[Array, Array]:
    """Keys and values of `table`, both [K, P, S, C], in `dtype`."""
    rows, count = table.shape

    def take(pages):
        if layer.joined:  # flattening would lay all pages out anew on TPU
            return pages.at[:, table].get(mode="promise_in_bounds")
        flat = pages.reshape(*pages.shape[:2], -1)  # one stretch a block: what a CPU gathers fast
        found = flat.at[:, table].get(mode="promise_in_bounds")
        return found.reshape(pages.shape[0], rows, count, *pages.shape[2:])

    def laid_out(pages):
        return take(pages).reshape(pages.shape[0], rows, -1, pages.shape[-1])

    k, v = laid_out(layer.keys), laid_out(layer.values)
    if layer.key_scales is not None:
        k = k.astype(jnp.float32) * laid_out(layer.key_scales)
        v = v.astype(jnp.float32) * laid_out(layer.value_scales)
    return k.astype(dtype), v.astype(dtype)


def attend_blocks(
    q: Float[Array, "P W K G C"],
    layer: Pages,
    table: Int[Array, "P J"],
    starts: Int[Array, " P"],
    parts: Int[Array, ""],
) -> Float[Array, "P W K G C"]:
    """Attention of W new tokens a row, at positions starts .. starts + W - 1, over the row's blocks.

    Their own keys are in the blocks already. A running softmax walks over the first `parts` parts.
    """
    p, w, heads, g, c = q.shape
    size = layer.part
    per_part = size // layer.block_tokens
    q = (q * c**-0.5).transpose(2, 0, 3, 1, 4).reshape(heads, p, g * w, c)
    position = jnp.tile(starts[:, None] + jnp.arange(w), (1, g))  # [P, G W]

    def part(index, state):
        top, total, out = state
        ids = jax.lax.dynamic_slice_in_dim(table, index * per_part, per_part, axis=1)
        k, v = blocks_of(layer, ids, q.dtype)
        scores = jnp.einsum("kpqc,kpsc->kpqs", q, k, preferred_element_type=jnp.float32)
        source = index * size + jnp.arange(size)
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


def attend_chunks(
    q: Float[Array, "P W K G C"],
    layer: Pages,
    table: Int[Array, "P J"],
    starts: Int[Array, " P"],
) -> Float[Array, "P W K G C"]:
    """`attend_blocks` over as many parts as there are; where layers have their own pages, pair by pair, so
    that rows come best in the order of their starts."""
    rows, width = q.shape[:2]

    def some(given):
        q, table, starts = given
        parts = (jnp.max(starts) + width - 1) // layer.part + 1
        return attend_blocks(q, layer, table, starts, parts)

    if layer.joined:
        return some((q, table, starts))
    pairs = tuple(x.reshape(-1, min(2, rows), *x.shape[1:]) for x in (q, table, starts))
    return jax.lax.map(some, pairs).reshape(q.shape)


# Decoding in the blocks -----------------------------------------------------------------------------


def attend_one(
    q: Float[Array, "P 1 K G C"],
    layer: Pages,
    table: Int[Array, "P J"],
    positions: Int[Array, " P"],
    parts: Int[Array, ""],
    kind: str = "auto",
) -> Float[Array, "P 1 K G C"]:
    """`attend_blocks` for one token a row, over joined blocks.

    Args:
      kind: "plain", or "pallas": the TPU kernel, which computes in bfloat16 and does not take int8 blocks
        (elsewhere only under pltpu.force_tpu_interpret_mode). "auto": the kernel on TPU for bfloat16
        blocks whose shapes suit it.
    """
    if kind == "auto":
        fits = layer.values.dtype == jnp.bfloat16 and q.shape[-1] % 128 == 0 and _tiles(layer)
        kind = "pallas" if sharding.platform() == "tpu" and fits else "plain"
    if kind == "plain":
        return attend_blocks(q, layer, table, positions, parts)
    return _kernel_attention(q, layer, table, positions)


def _tiles(layer: Pages) -> bool:
    """Whether a block is whole tiles in a TPU's memory."""
    return layer.block_tokens % (32 // layer.values.dtype.itemsize) == 0


def _kernel_attention(q, layer: Pages, table, positions) -> Array:
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    p, _, heads, g, c = q.shape
    per_step = min(table.shape[1], max(1, KERNEL_TOKENS // layer.block_tokens))
    while table.shape[1] % per_step:
        per_step -= 1

    def run(q, keys, values, lengths, table):
        rows, heads = q.shape[:2]
        out = paged_attention(
            (q * c**-0.5).reshape(rows, heads * g, c),
            keys,
            values,
            lengths,
            table,
            pages_per_compute_block=per_step,
        )
        return out.reshape(q.shape)

    q, lengths = q[:, 0], positions + 1
    if not jax.sharding.get_abstract_mesh().empty:
        by_row = sharding.activation_spec(("batch", "act_kv_heads", None, None), q.shape)
        pages = sharding.activation_spec(PAGE_AXES, layer.values.shape)
        rows = by_row[0]
        specs = (by_row, pages, pages, PartitionSpec(rows), PartitionSpec(rows, None))
        run = jax.shard_map(run, in_specs=specs, out_specs=by_row, check_vma=False)
    return run(q, layer.keys, layer.values, lengths, table)[:, None].astype(q.dtype)


# Decoding in rows ---------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """One layer's cached tokens of running rows, laid out for one new token at a time.

    Attributes:
      keys: [K, P, C, S], which suits the CPU's product; values: [K, P, S, C]; S is a multiple of PART.
      int8: whether the blocks behind them are: what is new is rounded as they will round it; static.
    """

    keys: Array
    values: Array
    int8: bool = field(default=False, metadata={"static": True})


def rows_of(layer: Pages, table: Int[Array, "P J"], dtype) -> Rows:
    """What the blocks in `table` hold."""
    k, v = blocks_of(layer, table, dtype)
    return Rows(k.swapaxes(2, 3), v, layer.key_scales is not None)


def empty_rows(
    config: DecoderConfig, rows: int, size: int, dtype, *, int8: bool = False
) -> tuple[Rows, ...]:
    """Rows of `size` tokens, one Rows a layer."""
    lead, width = (config.num_kv_heads, rows), config.head_dim
    shapes = (*lead, width, size), (*lead, size, width)
    return tuple(
        Rows(*(jnp.zeros(shape, dtype) for shape in shapes), int8) for _ in range(config.num_layers)
    )


def with_row(rows: Rows, row: Int[Array, ""], new: Rows) -> Rows:
    """`rows` with one row replaced by the only one of `new`."""
    put = jax.lax.dynamic_update_slice_in_dim
    return Rows(put(rows.keys, new.keys, row, 1), put(rows.values, new.values, row, 1), rows.int8)


def with_token(
    rows: Rows, positions: Int[Array, " P"], k: Float[Array, "P K 1 C"], v: Array
) -> Rows:
    """`rows` with one token a row written at its position."""
    if rows.int8:
        k, v = rounded(k), rounded(v)

    def put(row, state):
        keys, values = state
        new_k = jax.lax.dynamic_slice_in_dim(k, row, 1).transpose(1, 0, 3, 2)
        new_v = jax.lax.dynamic_slice_in_dim(v, row, 1).transpose(1, 0, 2, 3)
        update, at = jax.lax.dynamic_update_slice, positions[row]
        return (
            update(keys, new_k.astype(keys.dtype), (0, row, 0, at)),
            update(values, new_v.astype(values.dtype), (0, row, at, 0)),
        )

    return Rows(*jax.lax.fori_loop(0, k.shape[0], put, (rows.keys, rows.values)), rows.int8)


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
    layer: Pages,
    rows: Rows,
    which: Int[Array, " M"],
    places: Int[Array, " M"],
    blocks: Int[Array, " M"],
    count: Int[Array, ""],
) -> Pages:
    """`layer` with `count` blocks taken from `rows`: block places[m] of row which[m] into blocks[m]."""
    tokens = layer.values.shape[2]
    heads, _, width, _ = rows.keys.shape
    cut = jax.lax.dynamic_slice

    def put(index, layer):
        row, at = which[index], places[index] * tokens
        k = cut(rows.keys, (0, row, 0, at), (heads, 1, width, tokens)).swapaxes(2, 3)
        v = cut(rows.values, (0, row, at, 0), (heads, 1, tokens, width))
        return with_blocks(layer, blocks[index][None], k, v)

    return jax.lax.fori_loop(0, count, put, layer)
