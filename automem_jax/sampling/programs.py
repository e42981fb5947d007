"""The two compiled programs of the engine: a pass over chunks of prompts, and a burst of decoding.

A chunk is one block of tokens at its own place in a prompt, so a token's keys and values come from the
same program at the same place of a row, whatever of the prompt was cached and whatever else is in the
batch. The last prompt token is left to decoding, which starts with it.

Axes: B rows, P chunks, W tokens of a chunk (a block), J blocks of a table, T steps of a burst,
V vocab, M adapter columns (adapters x rank).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from automem_jax.models.decoder import CachedAttention, Decoder
from automem_jax.models.paged_cache import (
    PagedCache,
    as_kept,
    attend_blocks,
    attend_rows,
    rows_of,
    rows_written,
    with_blocks,
    with_token,
)
from automem_jax.sampling.token_choice import ChoiceSettings, choose, row_keys

BURST = 16  # decode steps of a burst, at most
TOP_LOGPROBS = 20

# One layer's adapters, all side by side: projection -> (A [I, M], B [M, O] with the scales in it).
LayerAdapters = Mapping[str, tuple[Array, Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """A model as the programs take it.

    Attributes:
      state: nnx state of the decoder, without adapters.
      layers: a state a layer; None: sliced from the stack in the program.
      adapters: a mapping a layer; None: no adapter takes part.
    """

    state: nnx.State
    layers: tuple[nnx.State, ...] | None
    adapters: tuple[LayerAdapters, ...] | None


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
      parts: [] int32, parts of paged_cache.PART tokens that the longest row spans.
    """

    tokens: Int[Array, "P W"]
    starts: Int[Array, " P"]
    blocks: Int[Array, " P"]
    tables: Int[Array, "P J"]
    chosen: Int[Array, " P"]
    parts: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeRows:
    """What each row of a burst goes on from.

    Attributes:
      tokens: [B] int32, newest token, chosen (or the prompt's last) and not yet in the cache.
      positions: [B] int32, where it stands, 0 .. S - 1.
      remaining: [B] int32, tokens that may still be drawn; 0 for a padding row.
      indices: [B] int32, tokens drawn so far.
      tables: [B, J] int32, the row's blocks, 0 past the end; J W is a multiple of paged_cache.PART.
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
    width = chunks.tokens.shape[1]
    layers = list(cache)

    def attention(index: int) -> CachedAttention:
        def attend(q, k, v):
            new_k, new_v = k.transpose(1, 0, 3, 2), v.swapaxes(0, 1)
            layers[index] = with_blocks(layers[index], chunks.blocks, new_k, new_v)
            out = attend_blocks(q, layers[index], chunks.tables, chunks.starts, chunks.parts)
            return out, (None, None)

        return attend

    model = nnx.merge(graphdef, weights.state)
    positions = chunks.starts[:, None] + jnp.arange(width)
    # The last layer's output is not needed, but its keys and values are.
    run_layers(model, weights, chunks.tokens, positions, chunks.chosen, attention)
    return tuple(layers)


def decode_burst(
    graphdef: Any, weights: Weights, cache: PagedCache, rows: DecodeRows, *, eos_id: int
) -> tuple[PagedCache, Burst]:
    """Draws tokens until every row has ended (end of turn, `remaining`), `steps` at most.

    What the blocks hold is laid out for decoding once, and what is new is written back at the end.
    """
    model = nnx.merge(graphdef, weights.state)
    if weights.layers is None:
        weights = Weights(weights.state, tuple(model.unstacked_layers()), weights.adapters)
    dtype = model.embed.get_value().dtype
    count = rows.tokens.shape[0]
    keys = row_keys(rows.seeds, rows.choice.key)
    laid_out = tuple(rows_of(layer, rows.tables, dtype) for layer in cache)
    column = (count, BURST)

    def body(state):
        step, token, counts, active, laid_out, burst = state
        positions = rows.positions + counts
        now = list(laid_out)

        def attention(index: int) -> CachedAttention:
            def attend(q, k, v):
                k, v = as_kept(cache[index], k), as_kept(cache[index], v)
                now[index] = with_token(now[index], positions, k, v)
                return attend_rows(q, now[index], positions), (None, None)

            return attend

        hidden = run_layers(
            model, weights, token[:, None], positions[:, None], rows.chosen, attention
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
        return step + 1, token, burst.counts, goes_on, tuple(now), burst

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
        laid_out,
        burst,
    )
    state = jax.lax.while_loop(lambda s: (s[0] < rows.steps) & jnp.any(s[3]), body, state)
    *_, laid_out, burst = state
    block = cache[0].values.shape[2]
    first, touched = rows.positions // block, (BURST + block - 2) // block + 1
    written = tuple(
        rows_written(layer, laid, rows.tables, first, touched)
        for layer, laid in zip(cache, laid_out, strict=True)
    )
    return written, burst


def run_layers(
    model: Decoder,
    weights: Weights,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    chosen: Int[Array, " B"],
    attention: Any,
) -> Float[Array, "B T D"]:
    """The residual stream after the last layer; `attention(i)` is layer i's."""
    x, rotation, _ = model._enter(tokens, positions, None)
    graphdef = nnx.graphdef(model.layers)
    states: Sequence[nnx.State] = weights.layers or model.unstacked_layers()
    mask = None
    for index, state in enumerate(states):
        layer = nnx.merge(graphdef, state)
        if weights.adapters is not None:
            for name, (a, b) in weights.adapters[index].items():
                linear = getattr(layer, name)
                linear.lora_a, linear.lora_b = nnx.LoRAParam(a), nnx.LoRAParam(b)
                mask = columns(chosen, a.shape[1]) if mask is None else mask
        x, _ = layer(x, rotation, None, mask, attention(index))
    return x


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
