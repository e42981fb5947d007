"""Weights and cache of the engine on its devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from automem_jax.models.decoder import BaseWeight, Decoder
from automem_jax.models.paged_cache import PAGE_AXES, PagedCache
from automem_jax.sampling.programs import Weights
from automem_jax.sharding import LogicalRules, activation_spec, variable_sharding

BLOCK_TOKENS = 32
WEIGHT_RULES = LogicalRules(embed=None)  # over the tensor axis, copied over the others


def placed_weights(model: Decoder, mesh: Mesh | None, joined: bool) -> tuple[Any, Weights]:
    """The graph and base weights of `model`; for a CPU also cut into layers, and a tied head laid out as
    products read it: both save copies at every token (and cost one in memory)."""
    base = without_adapters(model)
    if not joined and base.head is None:
        head = jnp.array(base.embed.get_value().T)
        base.head = nnx.data(BaseWeight(head, axes=("embed", "vocab")))
    if mesh is not None:
        for _, variable in nnx.iter_graph(base):
            if isinstance(variable, BaseWeight):
                sharding = variable_sharding(variable, mesh, WEIGHT_RULES)
                variable.set_value(jax.device_put(variable.get_value(), sharding))
    graphdef, state = nnx.split(base)
    layers = None if joined else tuple(base.unstacked_layers())
    return graphdef, Weights(state, layers, None)


def without_adapters(model: Decoder) -> Decoder:
    """The base of `model`, arrays shared."""
    base = nnx.merge(*nnx.split(model), copy=True)
    for linear in base.linears().values():
        linear.lora_a = linear.lora_b = nnx.data(None)
    base.adapter_count = 0
    return base


def default_blocks(slots: int, max_context: int, block_tokens: int) -> int:
    """Blocks of a cache, block 0 included: whole contexts of all slots and one more, for prefixes.

    Requests seldom take a whole context, and share prefixes; what they leave keeps more prefixes.
    """
    return 1 + (slots + 1) * -(-max_context // block_tokens)


def made_cache(empty: Callable[[], PagedCache], mesh: Mesh | None) -> PagedCache:
    """The cache; over a mesh each device makes its own part, since one may not hold the whole."""
    if mesh is None:
        return empty()
    with jax.set_mesh(mesh):
        shardings = jax.tree.map(
            lambda x: NamedSharding(mesh, activation_spec(PAGE_AXES, x.shape)),
            jax.eval_shape(empty),
        )
        return jax.jit(empty, out_shardings=shardings)()
