"""How a forward pass is computed, not what: attention kind, recomputation, chunks, dropout masks.

Axes: B batch, T time, I inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from automem_jax.models.attention import KINDS, SAVED

LAYER_INPUT = "layer_input"
PROJECTED = "projected"  # what the wide products of a layer leave behind
REMAT = ("none", "full", "attention", "dots", "offload")
LONG_ROW, MLP_CHUNK = 4096, 2048


@dataclass(frozen=True)
class Settings:
    """Settings of a Decoder.

    Attributes:
      attention: one of attention.KINDS.
      attention_chunk: queries of a chunk where attention is chunked; 0: chosen by shape.
      remat: what the backward pass keeps of a layer; the rest is computed again. "none": keep
        everything; "full": its input only; "attention": also the attention's output; "dots": the
        outputs of all wide products, so that only norms, activations and sums are computed again
        (on CPU faster than "none"); "offload": its input, in the host's memory.
      mlp_chunk: tokens, at most, that run through a feed-forward block at a time; 0: chosen by
        shape; -1: the whole row.
    """

    attention: str = "auto"
    attention_chunk: int = 0
    remat: str = "none"
    mlp_chunk: int = 0

    def __post_init__(self) -> None:
        for name, known in (("attention", KINDS), ("remat", REMAT)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} unknown; one of {', '.join(known)}"
                )
        if self.attention_chunk < 0 or self.mlp_chunk < -1:
            raise ValueError(
                f"attention_chunk {self.attention_chunk} and mlp_chunk {self.mlp_chunk} "
                "are numbers of tokens"
            )

    def resolved(self, length: int) -> Settings:
        """The same with `mlp_chunk` settled for rows of `length` tokens (-1: whole rows).

        Chunks pay where activations are what is short: long rows whose layers are recomputed.
        """
        chunk = max(0, self.mlp_chunk)
        if self.mlp_chunk == 0 and length > LONG_ROW and self.remat not in ("none", "dots"):
            chunk = MLP_CHUNK
        return dataclasses.replace(self, mlp_chunk=chunk or -1)


def rematerialized(body: Callable, remat: str) -> Callable:
    """`body` of a scan over layers under a policy of REMAT."""
    policies = jax.checkpoint_policies
    if remat == "none":
        return body
    policy = {
        "full": None,
        "attention": policies.save_only_these_names(SAVED),
        "dots": policies.save_only_these_names(SAVED, PROJECTED),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[LAYER_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }[remat]
    return jax.checkpoint(body, policy=policy, prevent_cse=False)


@dataclass(frozen=True)
class Dropout:
    """Dropout masks of one layer's adapters.

    A mask is a function of the key, the projection's name and the token's place in its row and
    batch: not of chunks or of the mesh.

    Attributes:
      key: of the layer and step.
      tokens: [T], places in the row of the tokens at hand.
    """

    key: Array
    tokens: Int[Array, " T"]

    def of(self, name: str, tokens: Int[Array, " T"] | None = None) -> Dropout:
        """The masks of projection `name`, for the tokens at `tokens` of the row (None: as before)."""
        number = int.from_bytes(name.encode()[:4], "little")
        key = jax.random.fold_in(self.key, number)
        return Dropout(key, self.tokens if tokens is None else tokens)

    def applied(self, x: Float[Array, "B T I"], rate: float) -> Float[Array, "B T I"]:
        """x with a share `rate` of its entries zeroed, the others divided by 1 - rate."""

        def kept(row, token):
            key = jax.random.fold_in(jax.random.fold_in(self.key, token), row)
            return jax.random.bernoulli(key, 1.0 - rate, x.shape[2:])

        rows = jnp.arange(x.shape[0])
        mask = jax.vmap(lambda row: jax.vmap(lambda token: kept(row, token))(self.tokens))(rows)
        return jnp.where(mask, x / (1.0 - rate), 0.0).astype(x.dtype)
