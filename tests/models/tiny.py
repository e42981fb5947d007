"""A very small decoder for tests."""

import dataclasses

import jax
from flax import nnx

from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import BaseWeight, Decoder

CONFIG = DecoderConfig(
    vocab_size=64,
    d_model=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=48,
    tie_embeddings=True,
    max_position=256,
)


def tiny_decoder(seed: int = 0, **changes) -> Decoder:
    """Weights of order 0.3, so that a difference anywhere shows in the logits."""
    model = Decoder(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(params=seed))
    base = nnx.state(model, BaseWeight)
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(base))))
    nnx.update(
        model, jax.tree.map(lambda w: w + 0.2 * jax.random.normal(next(keys), w.shape), base)
    )
    return model
