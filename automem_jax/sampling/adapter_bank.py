"""Adapters resident beside the base, side by side in one matrix a projection, loaded while it runs.

Every row multiplies with all columns and a mask keeps its own: see `Linear`. Arrays are replaced, never
changed, so a program that was started before a load is not disturbed by it.

Axes: L layers, I inputs, O outputs, M columns (adapters x rank), R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import TARGETS, Adapter, AdapterError
from automem_jax.sampling.programs import LayerAdapters, column_code
from automem_jax.sharding import activation_spec

_FEWEST_COLUMNS = 8


@dataclass(frozen=True)
class Version:
    """One load of an adapter: `number` from 1 tells it from every other, `name` may come again.

    It lies in columns first .. first + rank - 1.
    """

    number: int
    name: str
    first: int
    rank: int

    @property
    def code(self) -> int:
        """As the programs name it."""
        return column_code(self.first, self.rank)


class AdapterBank:
    """Up to `most` adapters of any ranks and targets.

    Args:
      stacked: layers as one more axis of each matrix, for a scan, instead of a mapping a layer.
    """

    def __init__(
        self, model: Decoder, most: int, mesh: Mesh | None = None, *, stacked: bool = False
    ):
        self._shapes = {n: (lin.shape, lin.axes) for n, lin in model.linears().items()}
        self._most, self._mesh, self._stacked = most, mesh, stacked
        self._dtype = model.embed.get_value().dtype  # in which they take part in products
        self._versions: dict[int, Version] = {}  # also replaced ones that requests still use
        self._current: dict[str, Version] = {}
        self._loads = 0
        self._columns = 0
        self._groups: tuple[LayerAdapters, ...] = ()  # a mapping a layer, or one of all

    @property
    def layers(self) -> tuple[LayerAdapters, ...] | LayerAdapters | None:
        """As `programs.Weights` takes them; None before the first load."""
        if not self._groups:
            return None
        return self._groups[0] if self._stacked else self._groups

    def columns(self) -> tuple[tuple[str, int], ...]:
        """Each adapted projection with its columns: what the shapes of `layers` follow from."""
        group = self._groups[0] if self._groups else {}
        return tuple((name, a.shape[-1]) for name, (a, _) in sorted(group.items()))

    def current(self) -> dict[str, Version]:
        """What new requests may name."""
        return dict(self._current)

    def find(self, adapter: int | str | None) -> Version | None:
        """The version that a request names; None for the base.

        Raises:
          ValueError: nothing of that name or number is resident.
        """
        if adapter in (None, 0, ""):
            return None
        if isinstance(adapter, str) and adapter in self._current:
            return self._current[adapter]
        for version in self._current.values():
            if version.number == adapter:
                return version
        names = ", ".join(self._current) or "none"
        raise ValueError(f"adapter {adapter!r} is not loaded; there are: {names}")

    def load(self, name: str, adapter: Adapter) -> Version:
        """Makes an adapter resident; a version of the same name stays until `drop`.

        Raises:
          AdapterError: it does not fit the model, or as many as may be are resident.
        """
        self._check(name, adapter)
        first = self._room(adapter.rank)
        scale = adapter.alpha / adapter.rank
        groups = [dict(group) for group in self._groups]
        columns = slice(first, first + adapter.rank)
        own = TARGETS[adapter.targets]
        for target in sorted({*own, *groups[0]}):  # others are cleared of what was there before
            a = b = np.float32(0)
            if target in own:
                a = np.asarray(adapter.weights[f"{target}.lora_a"], np.float32)
                b = np.asarray(adapter.weights[f"{target}.lora_b"], np.float32) * scale
            for index, group in enumerate(groups):
                old_a, old_b = group.get(target) or self._zeros(target)
                part = ... if self._stacked or target not in own else index
                new_a = old_a.at[..., columns].set(a[part].astype(self._dtype))
                new_b = old_b.at[..., columns, :].set(b[part].astype(self._dtype))
                group[target] = self._placed(target, new_a, new_b)
        self._groups = tuple(groups)
        self._loads += 1
        version = Version(self._loads, name, first, adapter.rank)
        self._versions[version.number] = self._current[name] = version
        return version

    def retire(self, name: str) -> Version:
        """Takes a name away from new requests. KeyError: it is unknown."""
        return self._current.pop(name)

    def drop(self, version: Version) -> None:
        """Frees the columns of a version that nobody uses and that is not current."""
        self._versions.pop(version.number, None)

    def old_versions(self) -> list[Version]:
        """Versions that no new request can name."""
        return [v for v in self._versions.values() if self._current.get(v.name) is not v]

    def _check(self, name: str, adapter: Adapter) -> None:
        if not name or adapter.targets not in TARGETS:
            raise AdapterError(f"adapter {name!r} with targets {adapter.targets!r}: unknown")
        others = [v for v in self._versions.values() if v.name != name]
        if len(others) >= self._most:
            raise AdapterError(
                f"{len(others)} adapters are resident, no more than {self._most} can be; unload one"
            )
        for target in TARGETS[adapter.targets]:
            layers, inputs, outputs = self._shapes[target][0]
            for part, shape in (
                ("lora_a", (layers, inputs, adapter.rank)),
                ("lora_b", (layers, adapter.rank, outputs)),
            ):
                found = adapter.weights.get(f"{target}.{part}")
                if found is None or tuple(found.shape) != shape:
                    raise AdapterError(
                        f"adapter {name!r}: {target}.{part} is "
                        f"{'missing' if found is None else tuple(found.shape)}, the model needs "
                        f"{shape}; it was made for another base"
                    )

    def _room(self, rank: int) -> int:
        """The first of `rank` free columns; makes more where there are too few."""
        first = 0
        for version in sorted(self._versions.values(), key=lambda v: v.first):
            if version.first - first >= rank:
                break
            first = max(first, version.first + version.rank)
        needed = first + rank
        if not self._groups:
            count = 1 if self._stacked else next(iter(self._shapes.values()))[0][0]
            self._groups = tuple({} for _ in range(count))
        if needed > self._columns:
            old, self._columns = self._columns, column_count(needed)
            more = self._columns - old

            def widened(x, axis):
                return jnp.pad(x, [(0, more if i == x.ndim + axis else 0) for i in range(x.ndim)])

            self._groups = tuple(
                {
                    target: self._placed(target, widened(a, -1), widened(b, -2))
                    for target, (a, b) in group.items()
                }
                for group in self._groups
            )
        return first

    def _zeros(self, target: str) -> tuple[jax.Array, jax.Array]:
        layers, inputs, outputs = self._shapes[target][0]
        lead = (layers,) if self._stacked else ()
        return (
            jnp.zeros((*lead, inputs, self._columns), self._dtype),
            jnp.zeros((*lead, self._columns, outputs), self._dtype),
        )

    def _placed(self, target: str, a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
        if self._mesh is None:
            return a, b
        _, (in_axis, out_axis) = self._shapes[target]
        lead = (None,) if self._stacked else ()
        axes_a, axes_b = joined_axes(in_axis, out_axis, lead)
        with jax.set_mesh(self._mesh):
            specs = activation_spec(axes_a, a.shape), activation_spec(axes_b, b.shape)
        return tuple(
            jax.device_put(x, NamedSharding(self._mesh, spec))
            for x, spec in zip((a, b), specs, strict=True)
        )


def column_count(needed: int) -> int:
    """Columns that are made where `needed` are in use."""
    return max(_FEWEST_COLUMNS, 1 << (needed - 1).bit_length())


def joined_axes(in_axis: str | None, out_axis: str | None, lead: tuple = ()) -> tuple[tuple, tuple]:
    """Logical axes of A and B of a projection with these axes: cut as it is, but not over `embed`."""
    in_axis, out_axis = (None if axis == "embed" else axis for axis in (in_axis, out_axis))
    return (*lead, in_axis, None), (*lead, None, out_axis)
