"""Mesh and logical-axis rules: the only place that knows mesh axis names.

Arrays carry logical axis names ("embed", "heads", ...); one LogicalRules maps them to mesh axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor", "sequence")


class ShardingError(ValueError):
    """A mesh that does not fit the devices, or logical axes that collide; the message names both."""


@dataclass(frozen=True)
class LogicalRules:
    """Logical axis name -> mesh axis, several mesh axes, or None (replicated).

    Weights: layers, adapters, vocab, embed, heads, kv_heads, mlp, head_dim, rank.
    Activations: batch, time, act_embed, act_heads, act_kv_heads, act_mlp, act_vocab.
    """

    layers: Any = None
    adapters: Any = None
    vocab: Any = "tensor"
    embed: Any = "fsdp"
    heads: Any = "tensor"
    kv_heads: Any = "tensor"
    mlp: Any = "tensor"
    head_dim: Any = None
    rank: Any = None
    batch: Any = ("data", "fsdp")
    time: Any = "sequence"
    act_embed: Any = None
    act_heads: Any = "tensor"
    act_kv_heads: Any = "tensor"
    act_mlp: Any = "tensor"
    act_vocab: Any = "tensor"

    def spec(self, axes: tuple[str | None, ...]) -> PartitionSpec:
        """The PartitionSpec of an array whose dimensions are named `axes`.

        Raises:
          ShardingError: an unknown logical axis, or two dimensions on one mesh axis.
        """
        known = {f.name for f in dataclasses.fields(self)}
        entries: list[Any] = []
        taken: dict[str, str] = {}
        for name in axes:
            if name is not None and name not in known:
                raise ShardingError(
                    f"unknown logical axis {name!r} in {axes}; known: {', '.join(sorted(known))}"
                )
            target = None if name is None else getattr(self, name)
            for mesh_axis in (target,) if isinstance(target, str) else target or ():
                if mesh_axis in taken:
                    raise ShardingError(
                        f"axes {axes}: {taken[mesh_axis]!r} -> {mesh_axis!r} collides with "
                        f"{name!r} -> {target!r}; give one of them another mesh axis or None"
                    )
                taken[mesh_axis] = str(name)
            entries.append(target)
        return PartitionSpec(*entries)


DEFAULT_RULES = LogicalRules()


def make_mesh(shape: Mapping[str, int] | None = None, devices: Any = None) -> Mesh:
    """A mesh over MESH_AXES. Axes not in `shape` have size 1; without `shape` all devices are fsdp.

    Raises:
      ShardingError: an unknown axis, or a product that differs from the device count.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = {"fsdp": len(devices)} if shape is None else dict(shape)
    unknown = set(shape) - set(MESH_AXES)
    if unknown:
        raise ShardingError(f"unknown mesh axes {sorted(unknown)}; known: {', '.join(MESH_AXES)}")
    sizes = tuple(shape.get(name, 1) for name in MESH_AXES)
    product = 1
    for size in sizes:
        product *= size
    if product != len(devices):
        raise ShardingError(
            f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} needs {product} devices, "
            f"{len(devices)} are there; change the mesh shape so that its product is the device count"
        )
    return jax.make_mesh(
        sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices
    )


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Pins an activation to its logical axes under the mesh of `jax.set_mesh`; else returns it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = DEFAULT_RULES.spec(axes)
    return jax.lax.with_sharding_constraint(x, _fitting(spec, x.shape, dict(mesh.shape)))


def variable_sharding(
    variable: nnx.Variable, mesh: Mesh, rules: LogicalRules = DEFAULT_RULES
) -> NamedSharding:
    """Sharding of a variable by its `axes` metadata (replicated where it has none).

    A dimension that its mesh axes do not divide is replicated.
    """
    axes = variable.get_metadata().get("axes") or ()
    spec = rules.spec(tuple(axes))
    return NamedSharding(mesh, _fitting(spec, variable.get_value().shape, dict(mesh.shape)))


def shard_model(model: nnx.Module, mesh: Mesh, rules: LogicalRules = DEFAULT_RULES) -> None:
    """Moves every variable of `model` onto `mesh`, in place."""
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Variable):
            sharding = variable_sharding(variable, mesh, rules)
            variable.set_value(jax.device_put(variable.get_value(), sharding))


def _fitting(
    spec: PartitionSpec, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> PartitionSpec:
    entries = []
    for dimension, entry in zip(shape, spec, strict=False):
        parts = 1
        for mesh_axis in (entry,) if isinstance(entry, str) else entry or ():
            parts *= sizes[mesh_axis]
        entries.append(entry if dimension % parts == 0 else None)
    return PartitionSpec(*entries)
