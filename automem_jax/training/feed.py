"""From host batches to global arrays: which mesh, which rows a process feeds, where they lie.

Axes: B rows, T tokens of a row, M labels of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from automem_jax.config import TrainingConfig
from automem_jax.sharding import DEFAULT_RULES, ShardingError, configured_mesh

BY_TOKEN = ("tokens", "positions", "ends", "segment_ids")


def training_mesh(config: TrainingConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh` over all devices.

    Where no axis is set, one process uses only as many devices as share the rows evenly.

    Raises:
      ShardingError: the product is not the device count, or rows or tokens cannot be shared evenly.
    """
    devices = list(jax.devices() if devices is None else devices)
    mesh, rows = config.mesh, config.microbatch_rows or config.batch_rows
    fixed = mesh.data * mesh.tensor * mesh.sequence * mesh.slices
    if not mesh.fsdp and fixed == 1 and jax.process_count() == 1:
        devices = devices[: max(n for n in range(1, len(devices) + 1) if rows % n == 0)]
    made = configured_mesh(mesh, devices)
    shares = made.shape["data"] * made.shape["fsdp"]
    if rows % shares:
        name = "microbatch_rows" if config.microbatch_rows else "batch_rows"
        raise ShardingError(
            f"training.{name} {rows} cannot be shared evenly by data x fsdp = {shares}; make it a "
            f"multiple of {shares}, or give devices to training.mesh.tensor or .sequence"
        )
    if config.row_tokens % mesh.sequence:
        raise ShardingError(
            f"training.row_tokens {config.row_tokens} is not a multiple of training.mesh.sequence "
            f"{mesh.sequence}"
        )
    return made


class Feed:
    """Lays batches of `rows` rows out over a mesh; each process holds its own rows only."""

    def __init__(self, mesh: Mesh, rows: int):
        self._mesh, self._rows = mesh, rows
        own: set[int] = set()
        sharding = self._sharding("labels")
        for index in sharding.addressable_devices_indices_map((rows, 1)).values():
            own |= set(range(*index[0].indices(rows)))
        self.own_rows: tuple[int, ...] = tuple(sorted(own))
        self._place = {row: i for i, row in enumerate(self.own_rows)}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Global arrays from this process's rows, in the order of `own_rows`."""
        return {name: self._global(name, value) for name, value in batch.items()}

    def _global(self, name: str, own: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(self._rows)
            first = self._place[start]
            return own[first : first + stop - start, index[1]]

        shape = (self._rows, *own.shape[1:])
        return jax.make_array_from_callback(shape, self._sharding(name), part)

    def _sharding(self, name: str) -> NamedSharding:
        axes = ("batch", "time" if name in BY_TOKEN else None)
        return NamedSharding(self._mesh, DEFAULT_RULES.spec(axes))
