"""The compiled programs of the engine: a pass over chunks of prompts, a burst of decoding, and what lays
rows out for it and keeps what it added.

A chunk is one block of tokens at its own place in a prompt, so a token's keys and values come from the
same program at the same place of a row, whatever of the prompt was cached and whatever else is in the
batch. The last prompt token is left to decoding, which starts with it.

Axes: B rows, P chunks, W tokens of a chunk (a block), J blocks of a table, T steps of a burst,
V vocab, M adapter columns (adapters x rank).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from automem_jax.models.decoder import Decoder
from automem_jax.models.paged_cache import (
    PagedCache,
    Pages,
    Rows,
    attend_chunks,
    attend_one,
    attend_rows,
    rows_of,
    rows_written,
    with_blocks,
    with_row,
    with_token,
    with_tokens,
)
from automem_jax.sampling.requests import TOP_LOGPROBS
from automem_jax.sampling.token_choice import ChoiceSettings, choose, row_keys

BURST = 16  # decode steps of a burst, at most

LaidOut = tuple[Rows, ...]  # a layer each
# One layer's adapters, all side by side: projection -> (A [I, M], B [M, O] with the scales in it).
LayerAdapters = Mapping[str, tuple[Array, Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """A model as the programs take it.

    Attributes:
      state: nnx state of the decoder, without adapters.
      layers: a state a layer, run one after the other; None: one scan over the stack in `state`, for
        which the cache has to be joined.
      adapters: a mapping a layer, or for a scan one mapping of stacked matrices; None: no adapter takes
        part.
    """

    state: nnx.State
    layers: tuple[nnx.State, ...] | None
    adapters: tuple[LayerAdapters, ...] | LayerAdapters | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chunks:
    """Prompt chunks of one pass.

    Attributes:
      tokens: [P, W] int32; past a prompt's end: anything.
      starts: [P] int32, position of each chunk's first token, a multiple of W.
      blocks: [P] int32, the block that it fills; 0 for a chunk that is padding.
      tables: [P, J] int32, blocks of its prompt from the first, 0 past the end.
      chosen: [P] int32, `column_code` of each one's adapter.
    """

    tokens: Int[Array, "P W"]
    starts: Int[Array, " P"]
    blocks: Int[Array, " P"]
    tables: Int[Array, "P J"]
    chosen: Int[Array, " P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeRows:
    """What each row of a burst goes on from.

    Attributes:
      tokens: [B] int32, newest token, chosen (or the prompt's last) and not yet in the cache.
      positions: [B] int32, where it stands, 0 .. S - 1.
      remaining: [B] int32, tokens that may still be drawn; 0 for a padding row.
      indices: [B] int32, tokens drawn so far.
      tables: [B, J] int32, the row's blocks, 0 past the end; J W is a multiple of the cache's part.
      chosen: [B] int32, `column_code` of each one's adapter.
      seeds: [B] uint32, first word of each request's key; `choice` has the others.
      choice: how to draw.
      allowed: [B, V] bool, tokens that the first step may draw; None: all.
      steps: [] int32, steps of this burst, 1 .. BURST.
      wants_top: [] bool, whether any row asks for top log-probabilities.
    """

    tokens: Int[Array, " B"]
    positions: Int[Array, " B"]
    remaining: Int[Array, " B"]
    indices: Int[Array, " B"]
    tables: Int[Array, "B J"]
    chosen: Int[Array, " B"]
    seeds: Int[Array, " B"]
    choice: ChoiceSettings
    allowed: Bool[Array, "B V"] | None
    steps: Int[Array, ""]
    wants_top: Bool[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lay:
    """Rows that are to be laid out.

    Attributes:
      rows: [B] int32, of which the first `count` ([] int32) are meant.
      tables: [B, J] int32, of all rows.
    """

    rows: Int[Array, " B"]
    count: Int[Array, ""]
    tables: Int[Array, "B J"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Touched:
    """Blocks of rows that a burst has written to, the first `count` ([] int32) of M.

    Attributes:
      rows: [M] int32. places: [M] int32, which block of its row. blocks: [M] int32, where it belongs.
    """

    rows: Int[Array, " M"]
    places: Int[Array, " M"]
    blocks: Int[Array, " M"]
    count: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Burst:
    """What a burst drew; past a row's count: undefined.

    Attributes:
      tokens, logprobs: [B, T] int32 and float32.
      counts: [B] int32, tokens drawn, an end-of-turn token included.
      top_ids, top_logprobs: [B, T, TOP_LOGPROBS], most likely first; zeros unless asked for.
    """

    tokens: Int[Array, "B T"]
    logprobs: Float[Array, "B T"]
    counts: Int[Array, " B"]
    top_ids: Int[Array, "B T Z"]
    top_logprobs: Float[Array, "B T Z"]


def prefill_chunks(graphdef: Any, weights: Weights, cache: PagedCache, chunks: Chunks):
    """The cache with the chunks' blocks written. Chunks of one prompt may come in the same pass."""
    model = nnx.merge(graphdef, weights.state)
    layer_count = model.config.num_layers

    def attend(index, cache: PagedCache, q, k, v):
        at, first = _place(cache, index, layer_count)
        pages = with_blocks(cache[at], chunks.blocks + first, k.swapaxes(0, 1), v.swapaxes(0, 1))
        out = attend_chunks(q, pages, chunks.tables + first, chunks.starts)
        return out, (*cache[:at], pages, *cache[at + 1 :])

    positions = chunks.starts[:, None] + jnp.arange(chunks.tokens.shape[1])
    # The last layer's output is not needed, but its keys and values are.
    return run_layers(model, weights, chunks.tokens, positions, chunks.chosen, cache, attend)[1]


def lay_rows(cache: PagedCache, laid: LaidOut, lay: Lay) -> LaidOut:
    """`laid` with some rows taken from the cache's blocks."""
    dtype = laid[0].values.dtype

    def one(turn, laid):
        row = lay.rows[turn]
        table = jax.lax.dynamic_slice_in_dim(lay.tables, row, 1)
        return tuple(
            with_row(rows, row, rows_of(layer, table, dtype))
            for layer, rows in zip(cache, laid, strict=True)
        )

    return jax.lax.fori_loop(0, lay.count, one, laid)


def keep_rows(cache: PagedCache, laid: LaidOut, touched: Touched) -> PagedCache:
    """The cache with what a burst has added to rows that are laid out."""
    return tuple(
        rows_written(layer, rows, touched.rows, touched.places, touched.blocks, touched.count)
        for layer, rows in zip(cache, laid, strict=True)
    )


def decode_burst(
    graphdef: Any,
    weights: Weights,
    kept: PagedCache | LaidOut,
    rows: DecodeRows,
    *,
    eos_id: int,
) -> tuple[PagedCache | LaidOut, Burst]:
    """Draws tokens until every row has ended (end of turn, `remaining`), `steps` at most.

    Args:
      kept: each row's tokens: a joined cache, read and written where it lies, or rows that are laid out,
        whose new tokens are not in the cache then.
    """
    model = nnx.merge(graphdef, weights.state)
    layer_count = model.config.num_layers
    count = rows.tokens.shape[0]
    keys = row_keys(rows.seeds, rows.choice.key)
    column = (count, BURST)

    def in_blocks(positions):
        block = kept[0].block_tokens
        place = jnp.take_along_axis(rows.tables, (positions // block)[:, None], axis=1)[:, 0]
        parts = jnp.max(jnp.where(rows.remaining > 0, positions, 0)) // kept[0].part + 1

        def attend(index, cache: PagedCache, q, k, v):
            at, first = _place(cache, index, layer_count)
            new = (x[:, :, 0].swapaxes(0, 1) for x in (k, v))
            pages = with_tokens(cache[at], place + first, positions % block, *new)
            out = attend_one(q, pages, rows.tables + first, positions, parts)
            return out, (pages,)

        return attend

    def laid_out(positions):
        def attend(index, laid: LaidOut, q, k, v):
            now = with_token(laid[index], positions, k, v)
            out = attend_rows(q, now, positions)
            return out, (*laid[:index], now, *laid[index + 1 :])

        return attend

    attention = in_blocks if isinstance(kept[0], Pages) else laid_out

    def body(state):
        step, token, counts, active, kept, burst = state
        positions = rows.positions + counts
        hidden, kept = run_layers(
            model,
            weights,
            token[:, None],
            positions[:, None],
            rows.chosen,
            kept,
            attention(positions),
        )
        logits = model.unembed(model.final_norm(hidden)[:, 0])
        allowed = None if rows.allowed is None else rows.allowed | (step > 0)
        chosen, logprob = choose(logits, keys, rows.indices + counts, rows.choice, allowed=allowed)
        tops = jax.lax.cond(rows.wants_top, _top, _no_top, logits)
        put = jax.lax.dynamic_update_slice
        burst = Burst(
            put(burst.tokens, chosen[:, None], (0, step)),
            put(burst.logprobs, logprob[:, None], (0, step)),
            counts + active,
            put(burst.top_ids, tops[0][:, None], (0, step, 0)),
            put(burst.top_logprobs, tops[1][:, None], (0, step, 0)),
        )
        token = jnp.where(active, chosen, token)  # what an ended row writes, nobody reads
        goes_on = active & (chosen != eos_id) & (burst.counts < rows.remaining)
        return step + 1, token, burst.counts, goes_on, kept, burst

    burst = Burst(
        jnp.zeros(column, jnp.int32),
        jnp.zeros(column, jnp.float32),
        jnp.zeros((count,), jnp.int32),
        jnp.zeros((*column, TOP_LOGPROBS), jnp.int32),
        jnp.zeros((*column, TOP_LOGPROBS), jnp.float32),
    )
    state = (
        jnp.zeros((), jnp.int32),
        rows.tokens,
        jnp.zeros((count,), jnp.int32),
        rows.remaining > 0,
        kept,
        burst,
    )
    state = jax.lax.while_loop(lambda s: (s[0] < rows.steps) & jnp.any(s[3]), body, state)
    *_, kept, burst = state
    return kept, burst


def _place(cache: PagedCache, index: int | Array, layers: int) -> tuple[int, int | Array]:
    """Which Pages hold layer `index`, and where in them its blocks begin."""
    if cache[0].joined:
        return 0, index * (cache[0].values.shape[1] // layers)
    return index, 0


def run_layers(
    model: Decoder,
    weights: Weights,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    chosen: Int[Array, " B"],
    kept: Any,
    attend: Callable,
) -> tuple[Float[Array, "B T D"], Any]:
    """The residual stream after the last layer, and what is kept then.

    Args:
      kept: attention state. attend(layer's index, kept, q, k, v) gives (attended, kept).
    """
    x, rotation, _ = model._enter(tokens, positions, None)
    graphdef, stacked = nnx.split(model.layers)
    adapters, mask = weights.adapters, None
    if adapters:
        a, _ = next(iter((adapters if weights.layers is None else adapters[0]).values()))
        mask = columns(chosen, a.shape[-1])

    def one(carry, given):
        x, kept = carry
        index, state, adapters = given
        layer = nnx.merge(graphdef, state)
        for name, (a, b) in (adapters or {}).items():
            linear = getattr(layer, name)
            linear.lora_a, linear.lora_b = nnx.LoRAParam(a), nnx.LoRAParam(b)

        def attention(q, k, v):
            out, after = attend(index, kept, q, k, v)
            return out, (after, None)

        x, (kept, _) = layer(x, rotation, None, mask, attention)
        return (x, kept), None

    carry = x, kept
    if weights.layers is None:
        indices = jnp.arange(model.config.num_layers)
        return jax.lax.scan(one, carry, (indices, stacked, adapters))[0]
    for index, state in enumerate(weights.layers):
        carry, _ = one(carry, (index, state, adapters[index] if adapters else None))
    return carry


def columns(chosen: Int[Array, " B"], count: int) -> Float[Array, "B M"]:
    """One in the columns of each row's adapter, which `chosen` names as `column_code` does."""
    first, rank = chosen >> 12, chosen & 0xFFF
    column = jnp.arange(count)[None, :]
    inside = (column >= first[:, None]) & (column < (first + rank)[:, None])
    return inside.astype(jnp.float32)


def column_code(first: int, rank: int) -> int:
    """The adapter in columns first .. first + rank - 1 as one number; 0 is the base."""
    return first << 12 | rank


def _top(logits: Float[Array, "B V"]):
    kept, ids = jax.lax.top_k(logits, min(TOP_LOGPROBS, logits.shape[1]))
    spare = ((0, 0), (0, TOP_LOGPROBS - ids.shape[1]))
    kept = kept - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.pad(ids, spare), jnp.pad(kept, spare, constant_values=-jnp.inf)


def _no_top(logits: Float[Array, "B V"]):
    shape = (logits.shape[0], TOP_LOGPROBS)
    return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
