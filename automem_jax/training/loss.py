"""The masked next-token loss, computed only where something is supervised.

Axes: B rows, T tokens of a row, D model, M labels of a row, C labels of a chunk, V vocabulary.

Worked example, a row that holds two items and padding; `ok <e>` and `no <e>` are supervised:

    index         0    1   2    3    4    5   6    7    8    9   10
    tokens       <u>  hi  <a>  ok   <e>  <u>  yo  <a>  no   <e>   0
    predict_at    2    3   7    8
    labels       ok   <e>  no  <e>
    weights       1    1   1    1

The hidden state of `<a>` is unembedded and scored on `ok`. Four tokens count; the loss is the sum of
their cross entropies over 4, whatever rows or devices they lie in. `<e>` at 4 is not scored on `<u>`,
which opens another item. Logits exist for four places, not for eleven, and for one chunk of them at a
time.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from automem_jax.sharding import constrain


def supervised_loss(
    hidden: Float[Array, "B T D"],
    predict_at: Int[Array, "B M"],
    labels: Int[Array, "B M"],
    label_weights: Float[Array, "B M"],
    unembed: Callable[[Float[Array, "B C D"]], Float[Array, "B C V"]],
    *,
    chunk: int = 512,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Each row's sum of weighted cross entropies and sum of weights.

    Returned apart and as sums, so that sums over rows, devices or accumulated batches weigh every token
    alike. Logits of `chunk` labels a row exist at a time; the backward pass computes them again.
    """
    rows, size = labels.shape
    picked = jnp.take_along_axis(hidden, predict_at[..., None], axis=1)
    if size <= chunk:
        totals = cross_entropy(unembed(picked), labels, label_weights)
        return totals, jnp.sum(label_weights, axis=1)
    chunks = -(-size // chunk)
    width = -(-size // chunks)

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, chunks * width - size), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(rows, chunks, width, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def add(totals, part):
        picked, labels, weights = part
        return totals + cross_entropy(unembed(picked), labels, weights), None

    parts = split(picked), split(labels), split(label_weights)
    totals, _ = jax.lax.scan(add, jnp.zeros(rows, jnp.float32), parts)
    return totals, jnp.sum(label_weights, axis=1)


def cross_entropy(
    logits: Float[Array, "B C V"], labels: Int[Array, "B C"], weights: Float[Array, "B C"]
) -> Float[Array, " B"]:
    """Each row's sum of weights * -log softmax(logits)[label], in float32."""
    scores = constrain(logits.astype(jnp.float32), ("batch", None, "act_vocab"))
    # Compare and sum, not a gather: each device reads its own share of the vocabulary.
    is_label = jnp.arange(scores.shape[-1], dtype=labels.dtype) == labels[..., None]
    chosen = jnp.sum(jnp.where(is_label, scores, 0.0), axis=-1)
    return jnp.sum(weights * (jax.nn.logsumexp(scores, axis=-1) - chosen), axis=-1)
