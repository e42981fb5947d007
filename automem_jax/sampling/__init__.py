"""Tokens from prompts: prefill, decode, token choice, and the sampler that joins them."""

from automem_jax.sampling.sampler import Generated, Generation, Sampler

__all__ = ["Generated", "Generation", "Sampler"]
