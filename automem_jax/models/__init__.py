"""The decoder: configuration, forward pass, adapters, weights on disk."""

from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import BaseWeight, Decoder, logits
from automem_jax.models.weights import base_hash, load_hf, load_model, save_model

__all__ = [
    "BaseWeight",
    "Decoder",
    "DecoderConfig",
    "base_hash",
    "load_hf",
    "load_model",
    "logits",
    "save_model",
]
