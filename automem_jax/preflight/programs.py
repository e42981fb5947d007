"""The real training step, lowered from shapes alone for a named mesh.

Nothing is allocated: every array is a jax.ShapeDtypeStruct with its sharding.

Axes: B rows, T tokens of a row, M labels of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from automem_jax.config import TrainingConfig
from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import add_adapters
from automem_jax.models.quantize import quantize_base
from automem_jax.models.settings import Settings
from automem_jax.sharding import DEFAULT_RULES, variable_sharding
from automem_jax.training.feed import BY_TOKEN
from automem_jax.training.objectives import EXTRA_FIELDS, objective_of
from automem_jax.training.optimizer import make_optimizer
from automem_jax.training.step import Partition, TrainState, make_train_step, partition

TOTAL_STEPS = 1000  # of the schedule; memory does not depend on it


@dataclass(frozen=True)
class Lowered:
    """A program before compilation, and what its arguments occupy.

    Attributes:
      program: has `.compile()`.
      arguments: bytes a device by kind.
    """

    program: Any
    arguments: dict[str, int]


def abstract_model(
    shape: DecoderConfig,
    training: TrainingConfig,
    mesh: Mesh,
    *,
    dtype: str,
    quantization: str = "none",
    settings: Settings | None = None,
) -> Decoder:
    """The decoder with one adapter as training and sampling hold it; shapes and shardings only."""
    lora = training.lora

    def build() -> Decoder:
        model = Decoder(shape, rngs=nnx.Rngs(params=0), dtype=jnp.dtype(dtype))
        if quantization != "none":
            quantize_base(model, quantization)
        add_adapters(
            model, 1, lora.rank, lora.alpha, lora.targets, nnx.Rngs(params=0), lora.dropout
        )
        return model

    model = nnx.eval_shape(build)
    model.settings = settings or Settings(attention=training.attention, remat=training.remat)
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Variable):
            value = variable.get_value()
            sharding = variable_sharding(variable, mesh)
            variable.set_value(jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding))
    return model


def lower_training(
    model: Decoder, training: TrainingConfig, mesh: Mesh, *, labels: int, nested: bool
) -> Lowered:
    """The step of `training.loop` on `mesh`.

    Args:
      labels: supervised tokens a row, at most (M).
      nested: whether rows hold trees (shared prefixes).
    """
    parts = partition(model)
    optimizer = make_optimizer(training, TOTAL_STEPS)
    rows = training.batch_rows
    microbatches = rows // (training.microbatch_rows or rows)
    step = make_train_step(
        parts,
        optimizer,
        microbatches=microbatches,
        loss_chunk=training.loss_chunk,
        dropout=training.lora.dropout > 0,
        mesh=mesh,
        objective=objective_of(training),
    )
    state = abstract_state(parts, optimizer, mesh)
    batch = abstract_batch(training, mesh, labels, nested)
    arguments = {
        "base weights": device_bytes(parts.frozen),
        "adapters": device_bytes(state.params),
        "optimizer": device_bytes(state.opt_state),
        "batch": device_bytes(batch),
    }
    with jax.set_mesh(mesh):
        return Lowered(step.lower(state, batch), arguments)


def abstract_state(
    parts: Partition, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """`step.initial_state`, of shapes."""
    params = {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(parts.trained)
    }
    replicated = NamedSharding(mesh, PartitionSpec())

    def placed(value, sharding):
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)

    opt_state = optax.tree_map_params(
        optimizer,
        lambda value, param: placed(value, param.sharding),
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda value: placed(value, replicated),
    )
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return TrainState(step, params, opt_state, placed(key, replicated))


_FLOATS = ("label_weights", "label_counts", "label_shares", "pair_weights")


def abstract_batch(
    training: TrainingConfig, mesh: Mesh, labels: int, nested: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `training.feed` hands to the step."""
    seen = "ends" if nested else "segment_ids"
    widths = {name: training.row_tokens for name in ("tokens", "positions", seen)}
    extra = EXTRA_FIELDS[training.objective]
    widths |= {name: labels for name in ("predict_at", "labels", "label_weights", *extra)}
    batch = {}
    for name, width in widths.items():
        axes = ("batch", "time" if name in BY_TOKEN else None)
        batch[name] = jax.ShapeDtypeStruct(
            (training.batch_rows, width),
            jnp.float32 if name in _FLOATS else jnp.int32,
            sharding=NamedSharding(mesh, DEFAULT_RULES.spec(axes)),
        )
    return batch


def device_bytes(tree: Any) -> int:
    """Bytes that the arrays of `tree` occupy on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        part = leaf.sharding.shard_shape(leaf.shape)
        bits = 4 if leaf.dtype == jnp.uint4 else 8 * leaf.dtype.itemsize
        total += int(np.prod(part, dtype=np.int64)) * bits // 8
    return total
