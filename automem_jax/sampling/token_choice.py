"""How the next token is drawn from logits.

Axes: B slots, V vocab.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from automem_jax.models.attention import NEGATIVE
from automem_jax.text.messages import PHASE_NUMBER, RequestKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ChoiceSettings:
    """Sampling settings, one row a slot.

    Attributes:
      temperature: [B] float32, >= 0; 0 is greedy.
      top_p: [B] float32, (0, 1]; 1 switches off.
      top_k: [B] int32, >= 0; 0 switches off.
      min_p: [B] float32, [0, 1); 0 switches off.
      key: [B, 4] uint32: episode, step, phase number and turn of the request.
    """

    temperature: Float[Array, " B"]
    top_p: Float[Array, " B"]
    top_k: Int[Array, " B"]
    min_p: Float[Array, " B"]
    key: Int[Array, "B 4"]


def key_words(key: RequestKey) -> tuple[int, int, int, int]:
    """The request's key as the four unsigned words that are folded into the run's seed."""
    mask = 0xFFFFFFFF
    return key.episode & mask, key.step & mask, PHASE_NUMBER[key.phase], key.turn & mask


def row_keys(run_seed: Int[Array, ...], words: Int[Array, "B 4"]) -> Array:
    """A random key a row: run seed, episode, step, phase number, turn, folded in that order.

    Args:
      run_seed: one for all rows, or one a row [B].
    """

    def fold(seed, row):
        key = jax.random.key(seed, impl="threefry2x32")
        for word in range(4):
            key = jax.random.fold_in(key, row[word])
        return key

    return jax.vmap(fold)(jnp.broadcast_to(run_seed, words.shape[:1]), words)


def choose(
    logits: Float[Array, "B V"],
    keys: Array,
    token_index: Int[Array, ...],
    settings: ChoiceSettings,
    *,
    needs_sort: bool | None = None,
    allowed: Bool[Array, "B V"] | None = None,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Next token of each row, and its log-probability at temperature 1 over the full distribution.

    Temperature first; then top-k, then top-p over what top-k left, then min-p relative to the most
    likely token. Tokens that tie with the last one kept are kept.

    Args:
      keys: `row_keys`; the token's index is folded in last.
      token_index: of the token in its answer, for all rows or one a row [B].
      needs_sort: whether any row uses top_p or top_k, where that is known when compiled (False: no sort
        is compiled); None: found out when run.
      allowed: tokens that may be chosen; None: all. Log-probabilities do not heed it.
    """
    top = jnp.max(logits, axis=-1)
    total = jnp.sum(jnp.exp(logits - top[:, None]), axis=-1)
    permitted = logits if allowed is None else jnp.where(allowed, logits, NEGATIVE)
    greedy = settings.temperature <= 0

    def sampled():
        return _sampled(permitted, keys, token_index, settings, needs_sort)

    best = jnp.argmax(permitted, axis=-1).astype(jnp.int32)
    token = jnp.where(greedy, best, jax.lax.cond(jnp.all(greedy), lambda: best, sampled))
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token, chosen - top - jnp.log(total)


def _sampled(
    logits: Float[Array, "B V"],
    keys: Array,
    token_index: Int[Array, ...],
    settings: ChoiceSettings,
    needs_sort: bool | None,
) -> Int[Array, " B"]:
    """Tokens drawn at each row's temperature; of greedy rows: any."""
    scaled = logits / jnp.where(settings.temperature <= 0, 1.0, settings.temperature)[:, None]
    floor = jnp.max(scaled, axis=-1) + jnp.log(settings.min_p)
    if needs_sort:
        floor = jnp.maximum(floor, _sorted_floor(scaled, settings))
    elif needs_sort is None:
        sorts = jnp.any((settings.top_k > 0) | (settings.top_p < 1))
        below = lambda: jnp.full_like(floor, -jnp.inf)  # noqa: E731
        kept = jax.lax.cond(sorts, lambda: _sorted_floor(scaled, settings), below)
        floor = jnp.maximum(floor, kept)
    index = jnp.broadcast_to(token_index, keys.shape)

    def noise_of(key, index):
        return jax.random.gumbel(jax.random.fold_in(key, index), logits.shape[1:], jnp.float32)

    noisy = scaled + jax.vmap(noise_of)(keys, index)
    noisy = jnp.where(scaled >= floor[:, None], noisy, -jnp.inf)
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32)


def _sorted_floor(scaled: Float[Array, "B V"], settings: ChoiceSettings) -> Float[Array, " B"]:
    """The smallest scaled logit that top-k and top-p keep; -inf where both are off."""
    vocab = scaled.shape[1]
    ordered = -jnp.sort(-scaled, axis=-1)
    k = jnp.where(settings.top_k > 0, jnp.minimum(settings.top_k, vocab), vocab)
    within = jnp.arange(vocab)[None, :] < k[:, None]
    probability = jax.nn.softmax(jnp.where(within, ordered, -jnp.inf), axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = within & ((before < settings.top_p[:, None]) | (settings.top_p >= 1)[:, None])
    kept = kept.at[:, 0].set(True)
    last = jnp.take_along_axis(ordered, jnp.sum(kept, axis=-1, keepdims=True) - 1, axis=-1)[:, 0]
    off = (settings.top_k <= 0) & (settings.top_p >= 1)
    return jnp.where(off, -jnp.inf, last)
