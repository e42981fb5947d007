"""The engine's own two programs, lowered from shapes alone for a named mesh.

As on accelerators: one joined cache, layers under a scan, weights over the tensor axis and copied over
the others. Nothing is allocated: every array is a jax.ShapeDtypeStruct with its sharding.

Axes: B rows, P chunks, W tokens of a chunk (a block), J blocks of a table, V vocabulary, M adapter columns.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from automem_jax.models.decoder import BaseWeight, Decoder
from automem_jax.models.lora import TARGETS
from automem_jax.models.paged_cache import JOINED_PART, PAGE_AXES, PagedCache, empty_paged_cache
from automem_jax.preflight.programs import Lowered, device_bytes
from automem_jax.sampling.adapter_bank import column_count, joined_axes
from automem_jax.sampling.engine import JOINED_CHUNK_TOKENS
from automem_jax.sampling.placement import (
    BLOCK_TOKENS,
    WEIGHT_RULES,
    default_blocks,
    without_adapters,
)
from automem_jax.sampling.programs import (
    Chunks,
    DecodeRows,
    LayerAdapters,
    Weights,
    decode_burst,
    prefill_chunks,
)
from automem_jax.sampling.token_choice import ChoiceSettings
from automem_jax.sharding import activation_spec, variable_sharding


def lower_engine(model: Decoder, mesh: Mesh, *, program: str, slots: int, context: int) -> Lowered:
    """A pass over prompts ("prefill") or a burst of decoding ("decode") with one adapter resident.

    Args:
      model: `programs.abstract_model`, with its adapter.
      slots, context: the engine's `slots` and `max_context`.
    """
    config = model.config
    graphdef, weights = abstract_weights(model, mesh)
    cache = abstract_cache(model, mesh, default_blocks(slots, context, BLOCK_TOKENS))
    blocks = -(-context // JOINED_PART) * JOINED_PART // BLOCK_TOKENS
    whole = NamedSharding(mesh, PartitionSpec())

    def given(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    if program == "prefill":
        rows = JOINED_CHUNK_TOKENS // BLOCK_TOKENS
        column = functools.partial(given, jnp.int32, rows)
        inputs: tuple = (
            Chunks(
                tokens=column(BLOCK_TOKENS),
                starts=column(),
                blocks=column(),
                tables=column(blocks),
                chosen=column(),
            ),
        )
        run = functools.partial(prefill_chunks, graphdef)
    else:
        column = functools.partial(given, jnp.int32, slots)
        number = functools.partial(given, jnp.float32, slots)
        choice = ChoiceSettings(
            temperature=number(),
            top_p=number(),
            top_k=column(),
            min_p=number(),
            key=given(jnp.uint32, slots, 4),
        )
        inputs = (
            DecodeRows(
                tokens=column(),
                positions=column(),
                remaining=column(),
                indices=column(),
                tables=column(blocks),
                chosen=column(),
                seeds=given(jnp.uint32, slots),
                choice=choice,
                allowed=given(jnp.bool_, slots, config.vocab_size),
                steps=given(jnp.int32),
                wants_top=given(jnp.bool_),
            ),
        )
        run = functools.partial(decode_burst, graphdef, eos_id=0)
    arguments = {
        "base weights": device_bytes(weights.state),
        "adapters": device_bytes(weights.adapters),
        "KV cache": device_bytes(cache),
        "other": device_bytes(inputs),
    }
    with jax.set_mesh(mesh):
        lowered = jax.jit(run, donate_argnums=1).lower(weights, cache, *inputs)
    return Lowered(lowered, arguments)


def abstract_weights(model: Decoder, mesh: Mesh) -> tuple[nnx.GraphDef, Weights]:
    """The base as the engine holds it, and its bank with the model's adapter alone."""
    base = without_adapters(model)
    for _, variable in nnx.iter_graph(base):
        if isinstance(variable, BaseWeight):
            value = variable.get_value()
            sharding = variable_sharding(variable, mesh, WEIGHT_RULES)
            variable.set_value(jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding))
    graphdef, state = nnx.split(base)
    adapters: LayerAdapters = {}
    dtype = model.embed.get_value().dtype
    columns = column_count(model.adapter_rank)
    linears = base.linears()
    for name in TARGETS[model.adapter_targets]:
        layers, inputs, outputs = linears[name].shape
        axes = joined_axes(*linears[name].axes, lead=(None,))
        shapes = (layers, inputs, columns), (layers, columns, outputs)
        adapters[name] = tuple(
            jax.ShapeDtypeStruct(shape, dtype, sharding=_activation(mesh, names, shape))
            for names, shape in zip(axes, shapes, strict=True)
        )
    return graphdef, Weights(state, None, adapters)


def abstract_cache(model: Decoder, mesh: Mesh, blocks: int) -> PagedCache:
    """The joined cache, of shapes."""
    dtype = model.embed.get_value().dtype
    made = jax.eval_shape(
        lambda: empty_paged_cache(model.config, blocks, BLOCK_TOKENS, dtype, joined=True)
    )
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=_activation(mesh, PAGE_AXES, x.shape)
        ),
        made,
    )


def _activation(mesh: Mesh, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
    with jax.set_mesh(mesh):
        return NamedSharding(mesh, activation_spec(axes, shape))
