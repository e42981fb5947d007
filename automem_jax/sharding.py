"""Mesh and logical-axis rules: the only place that knows mesh axis names.

Arrays carry logical axis names ("embed", "heads", ...); one LogicalRules maps them to mesh axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from automem_jax.config import MeshConfig

MESH_AXES = ("data", "fsdp", "tensor", "sequence")


class ShardingError(ValueError):
    """A mesh that does not fit the devices, or logical axes that collide; the message names both."""


@dataclass(frozen=True)
class LogicalRules:
    """Logical axis name -> mesh axis, several mesh axes, or None (replicated).

    Weights: layers, adapters, vocab, embed, heads, kv_heads, mlp, head_dim, rank, rank_split.
    `rank_split` is the rank of an adapter's matrix whose other axis is `embed`: so every adapter
    and its optimizer state lies once over fsdp x tensor.
    Activations: batch, time, residual_time (between layers: what is kept for the backward pass
    lies once over the tensor axis too), act_embed, act_heads, act_kv_heads, act_mlp, act_vocab.
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
    rank_split: Any = "tensor"
    batch: Any = ("data", "fsdp")
    time: Any = "sequence"
    residual_time: Any = ("sequence", "tensor")
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


def make_mesh(
    shape: Mapping[str, int] | None = None,
    devices: Any = None,
    *,
    slices: Mapping[str, int] | None = None,
    allow_split_physical_axes: bool = False,
) -> Mesh:
    """A mesh over MESH_AXES. Axes not in `shape` have size 1; without `shape` all devices are fsdp.

    Args:
      shape: sizes of the whole mesh.
      slices: for several slices joined by the data-centre network: how often each axis is divided
        over slices, e.g. {"data": 2} for two slices; each divides the axis in `shape`. Devices are
        told apart by their slice, or where they have none (GPU, CPU) by their process.
      allow_split_physical_axes: lets a mesh axis lie across parts of the physical torus.

    Raises:
      ShardingError: an unknown axis, a product that differs from the device count, slices that
        do not divide the axes or are not there, or a mesh that the physical torus does not hold.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = {"fsdp": len(devices)} if shape is None else dict(shape)
    sizes, between = _axis_sizes(shape), _axis_sizes(slices or {})
    if math.prod(sizes) != len(devices):
        raise ShardingError(
            f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} needs {math.prod(sizes)} devices, "
            f"{len(devices)} are there; change the mesh shape so that its product is the device count"
        )
    for name, size, parts in zip(MESH_AXES, sizes, between, strict=True):
        if size % parts:
            raise ShardingError(
                f"mesh axis {name!r} of size {size} cannot be divided over {parts} slices; "
                "choose a divisor"
            )
    try:
        if math.prod(between) == 1:
            grid = mesh_utils.create_device_mesh(
                sizes, devices, allow_split_physical_axes=allow_split_physical_axes
            )
        else:
            grid = mesh_utils.create_hybrid_device_mesh(
                tuple(size // parts for size, parts in zip(sizes, between, strict=True)),
                between,
                devices,
                process_is_granule=len({getattr(d, "slice_index", None) for d in devices}) == 1,
                allow_split_physical_axes=allow_split_physical_axes,
            )
    except (ValueError, NotImplementedError) as error:
        raise ShardingError(
            f"mesh {shape} with slices {dict(slices or {})} does not fit the devices: {error}; "
            "set allow_split_physical_axes or choose axes that follow the physical ones"
        ) from error
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _axis_sizes(shape: Mapping[str, int]) -> tuple[int, ...]:
    unknown = set(shape) - set(MESH_AXES)
    if unknown:
        raise ShardingError(f"unknown mesh axes {sorted(unknown)}; known: {', '.join(MESH_AXES)}")
    wrong = {name: size for name, size in shape.items() if size < 1}
    if wrong:
        raise ShardingError(f"mesh axes {wrong} must be at least 1")
    return tuple(shape.get(name, 1) for name in MESH_AXES)


def configured_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
    """The mesh of a config over `devices` (all unless given); fsdp 0 takes what the other axes leave.

    Raises:
      ShardingError: the axes' product is not the device count, or does not divide it.
    """
    devices = list(jax.devices() if devices is None else devices)
    fixed = config.data * config.tensor * config.sequence * config.slices
    if not config.fsdp and len(devices) % fixed:
        raise ShardingError(
            f"training.mesh: data x tensor x sequence x slices = {fixed} does not divide the "
            f"{len(devices)} devices; choose divisors"
        )
    shape = {
        "data": config.data * config.slices,
        "fsdp": config.fsdp or len(devices) // fixed,
        "tensor": config.tensor,
        "sequence": config.sequence,
    }
    return make_mesh(shape, devices, slices={"data": config.slices})


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Pins an array to its logical axes under the mesh of `jax.set_mesh`; else returns it.

    The gradient is pinned alike: so an adapter's gradient is reduced where it arises.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(axes, x.shape))


def activation_spec(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """The PartitionSpec of an array under the mesh of `jax.set_mesh`; all replicated without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return PartitionSpec(*[None] * len(axes))
    return _fitting(DEFAULT_RULES.spec(axes), shape, dict(mesh.shape))


def axis_size(name: str, dimension: int) -> int:
    """Over how many shards a dimension with this logical axis lies, under the mesh of `jax.set_mesh`."""
    return mesh_axis_size(activation_spec((name,), (dimension,))[0])


def mesh_axis_size(target: Any) -> int:
    """Devices along a mesh axis or several (None: 1) of the mesh of `jax.set_mesh`."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes.get(name, 1) for name in _names(target))


def platform() -> str:
    """ "cpu", "gpu", "tpu" or "cuda": of the mesh of `jax.set_mesh`, else of the default backend.

    The mesh of a topology description names its own platform, whatever machine compiles.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


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
    """`spec` less the mesh axes, from the last, whose product does not divide the dimension."""
    entries: list[Any] = []
    for dimension, entry in zip(shape, spec, strict=False):
        names = _names(entry)
        while names and dimension % math.prod(sizes[name] for name in names):
            names = names[:-1]
        entries.append(names if len(names) > 1 else names[0] if names else None)
    return PartitionSpec(*entries)


def _names(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
