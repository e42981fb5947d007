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
    """Up to `most` adapters of any ranks and targets."""

    def __init__(self, model: Decoder, most: int, mesh: Mesh | None = None):
        self._shapes = {n: (lin.shape, lin.axes) for n, lin in model.linears().items()}
        self._most, self._mesh = most, mesh
        self._versions: dict[int, Version] = {}  # also replaced ones that requests still use
        self._current: dict[str, Version] = {}
        self._loads = 0
        self._columns = 0
        self.layers: tuple[LayerAdapters, ...] | None = None

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
        layers = [dict(layer) for layer in self.layers]
        for target in TARGETS[adapter.targets]:
            a = np.asarray(adapter.weights[f"{target}.lora_a"], np.float32)
            b = np.asarray(adapter.weights[f"{target}.lora_b"], np.float32) * scale
            for index, layer in enumerate(layers):
                old_a, old_b = layer.get(target) or self._zeros(target)
                new_a = jax.lax.dynamic_update_slice(old_a, a[index], (0, first))
                new_b = jax.lax.dynamic_update_slice(old_b, b[index], (first, 0))
                layer[target] = self._placed(target, new_a, new_b)
        self.layers = tuple(layers)
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
        if self.layers is None:
            self.layers = tuple({} for _ in range(next(iter(self._shapes.values()))[0][0]))
        if needed > self._columns:
            old, self._columns = self._columns, max(_FEWEST_COLUMNS, 1 << (needed - 1).bit_length())
            more = self._columns - old
            self.layers = tuple(
                {
                    target: self._placed(
                        target, jnp.pad(a, ((0, 0), (0, more))), jnp.pad(b, ((0, more), (0, 0)))
                    )
                    for target, (a, b) in layer.items()
                }
                for layer in self.layers
            )
        return first

    def _zeros(self, target: str) -> tuple[jax.Array, jax.Array]:
        _, inputs, outputs = self._shapes[target][0]
        return jnp.zeros((inputs, self._columns)), jnp.zeros((self._columns, outputs))

    def _placed(self, target: str, a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
        if self._mesh is None:
            return a, b
        _, (in_axis, out_axis) = self._shapes[target]
        in_axis, out_axis = (None if axis == "embed" else axis for axis in (in_axis, out_axis))
        with jax.set_mesh(self._mesh):
            specs = [
                activation_spec(axes, x.shape)
                for axes, x in (((in_axis, None), a), ((None, out_axis), b))
            ]
        return tuple(
            jax.device_put(x, NamedSharding(self._mesh, spec))
            for x, spec in zip((a, b), specs, strict=True)
        )
