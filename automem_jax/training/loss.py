"""The masked next-token loss.

Axes: B rows, T tokens of a row, V vocabulary.

Worked example, one row that holds two items and padding; a weight stands on the token to be predicted:

    tokens       <u>  hi  <a>  ok  <e>  <u>  yo  <a>  no  <e>   0
    segment_ids   1    1   1    1    1   2    2   2    2   2    0
    weights       0    0   0    1    1   0    0   0    1   1    0
    logits at    <u>  hi  <a>  ok  <e>  ...
    predict      hi   <a>  ok  <e>  <u>                          # <e> -> <u> crosses items: never counted

The logits at `<a>` are scored on `ok` with the weight of `ok`. Four tokens count, and the loss is the sum of
their cross entropies over 4, whatever rows or devices they lie in.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def target_weights(
    segment_ids: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> Float[Array, "B T-1"]:
    """Weight of each prediction: that of the predicted token, 0 where it opens another item or pads."""
    same_item = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
    return jnp.where(same_item, weights[:, 1:], 0.0)


def next_token_loss(
    logits: Float[Array, "B T V"],
    tokens: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum of weighted cross entropies and sum of weights; their quotient is the mean a supervised token.

    Returned apart, so that sums over devices or accumulated batches weigh every token alike.
    """
    counted = target_weights(segment_ids, weights)
    scores = logits[:, :-1].astype(jnp.float32)
    chosen = jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]
    cross_entropy = jax.nn.logsumexp(scores, axis=-1) - chosen
    return jnp.sum(counted * cross_entropy), jnp.sum(counted)
