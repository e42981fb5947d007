"""Token by token, all on the device: one compiled loop that ends when every row has ended.

Axes: B slots, S cache positions, V vocab.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from automem_jax.models.decoder import Decoder
from automem_jax.models.kv_cache import KVCache
from automem_jax.sampling.stop_strings import StopTable
from automem_jax.sampling.token_choice import ChoiceSettings, choose, row_keys

LENGTH, END_OF_TURN, STOP_STRING = 0, 1, 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What each slot is asked to do.

    Attributes:
      lengths: prompt tokens, [B] int32; 0 where the slot is empty.
      max_tokens: [B] int32, 0 (empty slot) .. S - length.
      stop_mask: [B] int32, bits of the row's stop strings in the StopTable.
      adapter_ids: [B] int32, 0 = base.
      choice: sampling settings and request keys.
    """

    lengths: Int[Array, " B"]
    max_tokens: Int[Array, " B"]
    stop_mask: Int[Array, " B"]
    adapter_ids: Int[Array, " B"]
    choice: ChoiceSettings


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeState:
    """What the loop carries.

    Attributes:
      cache: attention state; `cache.step` counts tokens written to it.
      token: [B] int32, the newest token, chosen and not yet written.
      active: [B] bool, rows still generating.
      tokens: [B, S] int32, chosen tokens; past a row's count: undefined.
      logprobs: [B, S] float32, log-probability of each.
      counts: [B] int32, tokens chosen while active, 0 .. max_tokens.
      ended: [B] int32, LENGTH, END_OF_TURN or STOP_STRING.
      stop_state: [B] int32, state of the stop automaton, 0 .. Q - 1.
    """

    cache: KVCache
    token: Int[Array, " B"]
    active: Bool[Array, " B"]
    tokens: Int[Array, "B S"]
    logprobs: Float[Array, "B S"]
    counts: Int[Array, " B"]
    ended: Int[Array, " B"]
    stop_state: Int[Array, " B"]


def decode(
    model: Decoder,
    cache: KVCache,
    logits: Float[Array, "B V"],
    rows: Rows,
    stops: StopTable,
    run_seed: Int[Array, ""],
    *,
    eos_id: int,
    needs_sort: bool,
    use_adapters: bool,
) -> DecodeState:
    """Generates until every row has ended: end of turn, a stop string, or max_tokens.

    Args:
      logits: of the last prompt token of each slot.
      eos_id, needs_sort, use_adapters: static.
    """
    slots, size = logits.shape[0], cache.values[0].shape[2]
    keys = row_keys(run_seed, rows.choice.key)
    layers = model.unstacked_layers()
    adapter_ids = rows.adapter_ids if use_adapters else None
    cache = KVCache(cache.keys, cache.values, rows.lengths, jnp.zeros((), jnp.int32))
    state = DecodeState(
        cache=cache,
        token=jnp.zeros((slots,), jnp.int32),
        active=rows.max_tokens > 0,
        tokens=jnp.zeros((slots, size), jnp.int32),
        logprobs=jnp.zeros((slots, size), jnp.float32),
        counts=jnp.zeros((slots,), jnp.int32),
        ended=jnp.zeros((slots,), jnp.int32),
        stop_state=jnp.zeros((slots,), jnp.int32),
    )

    def take(state: DecodeState, logits: Array, cache: KVCache) -> DecodeState:
        index = cache.step
        token, logprob = choose(logits, keys, index, rows.choice, needs_sort=needs_sort)
        stopped = (stops.ends_with[state.stop_state, token] & rows.stop_mask) != 0
        ended = jnp.where(token == eos_id, END_OF_TURN, jnp.where(stopped, STOP_STRING, LENGTH))
        counts = state.counts + state.active
        column = (0, index)
        put = jax.lax.dynamic_update_slice
        return DecodeState(
            cache=cache,
            token=token,
            active=state.active & (ended == LENGTH) & (counts < rows.max_tokens),
            tokens=put(state.tokens, token[:, None], column),
            logprobs=put(state.logprobs, logprob[:, None], column),
            counts=counts,
            ended=jnp.where(state.active, ended, state.ended),
            stop_state=stops.next_state[state.stop_state, token],
        )

    def body(state: DecodeState) -> DecodeState:
        hidden, cache = model.extend(state.token[:, None], state.cache, adapter_ids, layers)
        return take(state, model.unembed(hidden[:, 0]), cache)

    state = take(state, logits, cache)
    return jax.lax.while_loop(lambda state: jnp.any(state.active), body, state)
