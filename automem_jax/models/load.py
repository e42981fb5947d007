"""Fills a decoder's (sharded) arrays from a TensorSource, a block of rows at a time.

Each device's part of a stacked array is made once, and every block read from disk is written into it in
place. Beside the arrays themselves there is never more than a few blocks of CHUNK_BYTES in memory, on
host and device, and a host reads only the blocks that its own devices hold.

Axes: L layers, I inputs, O outputs.
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import Decoder
from automem_jax.models.layout import Row, layout
from automem_jax.models.quantize import quantize_linear
from automem_jax.models.tensors import TensorSource, WeightsError, row_chunks
from automem_jax.sharding import DEFAULT_RULES, LogicalRules, variable_sharding

CHUNK_BYTES = 8 * 2**20
_ALIGNMENT = 64  # bytes; what XLA asks of memory on the host
_NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$|^lm_head\.weight$|\.masked_bias$")


def abstract_model(config: DecoderConfig, dtype: Any) -> Decoder:
    """A decoder of shapes only."""
    return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(params=0), dtype=dtype))


def fill(
    config: DecoderConfig,
    source: TensorSource,
    dtype: Any,
    mesh: Mesh | None = None,
    rules: LogicalRules = DEFAULT_RULES,
    progress: Callable[[int, int], None] | None = None,
    quantization: str | None = None,
) -> Decoder:
    """A decoder with the weights of `source`, converted to `dtype` on the way.

    Args:
      quantization: kind of the projections' kernels, see quantize.KINDS; each is quantised as soon
        as it is read, so that one of them at most is there in `dtype`.
      mesh: arrays are laid over it by their logical axes; None: one device.
      progress: called with tensors read and tensors to read.

    Raises:
      WeightsError: a tensor is missing, is one too many, or has the wrong shape.
    """
    model = abstract_model(config, jnp.dtype(dtype))
    rows, linears = layout(model), model.linears()
    check_tensors(rows, config, source)
    total = sum(config.num_layers if row.stacked else 1 for row in rows)
    done = 0
    for row in rows:
        sharding = (
            SingleDeviceSharding(_default_device())
            if mesh is None
            else variable_sharding(row.variable, mesh, rules)
        )

        def tick() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        row.variable.set_value(_array(row, config.num_layers, source, sharding, tick))
        if quantization and row.path.endswith(".kernel"):
            quantize_linear(linears[row.path.split(".")[1]], quantization)
    model.quantization = quantization
    return model


def check_tensors(rows: list[Row], config: DecoderConfig, source: TensorSource) -> None:
    """Raises WeightsError unless `source` has exactly the tensors of the config, in its shapes."""
    known = set()
    for row in rows:
        shape = row.variable.get_value().shape
        shape = shape[1:] if row.stacked else shape
        wanted = shape[::-1] if row.transposed else shape
        for _, name in row.names(config.num_layers):
            known.add(name)
            if source.shape(name) != wanted:
                raise WeightsError(
                    f"{source.place}: tensor {name!r} has shape {source.shape(name)}, config.json "
                    f"asks for {wanted}; config and weights are of different models"
                )
    extra = [n for n in source.names() if n not in known and not _NOT_WEIGHTS.search(n)]
    if extra:
        raise WeightsError(
            f"{source.place}: tensor {sorted(extra)[0]!r} has no place in a {config.family} decoder of "
            f"{config.num_layers} layers ({len(extra)} such tensors); config and weights are of "
            "different models"
        )


def _array(
    row: Row, layers: int, source: TensorSource, sharding: Sharding, tick: Callable[[], None]
) -> jax.Array:
    """The variable's array, its parts on this host's devices filled from disk."""
    abstract = row.variable.get_value()
    shape, dtype = abstract.shape, abstract.dtype
    parts: dict[jax.Device, _DevicePart | _HostPart] = {}
    by_rows: dict[range, list[tuple[jax.Device, range, range]]] = defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = [range(*i.indices(size)) for i, size in zip(index, shape, strict=True)]
        part = _HostPart if device.platform == "cpu" else _DevicePart
        parts[device] = part([len(b) for b in bounds], dtype, device)
        held = bounds[0] if row.stacked else range(1)
        on_disk = bounds[1:] if row.stacked else bounds
        on_disk = on_disk[::-1] if row.transposed else on_disk
        by_rows[on_disk[0]].append((device, on_disk[1] if len(on_disk) > 1 else range(1), held))
    for layer, name in row.names(layers):
        kind = source.dtype(name)
        for rows, users in by_rows.items():
            left = min(columns.start for _, columns, _ in users)
            right = max(columns.stop for _, columns, _ in users)
            for start, stop in row_chunks(rows, right - left, kind, CHUNK_BYTES):
                block = source.read(name, slice(start, stop), slice(left, right))
                for device, columns, held in users:
                    if layer is not None and layer not in held:
                        continue
                    piece = block
                    if block.ndim > 1:
                        piece = block[:, columns.start - left : columns.stop - left]
                    where = [start - rows.start] + [0] * (block.ndim - 1)
                    where = where[::-1] if row.transposed else where
                    if row.stacked:
                        where = [layer - held.start, *where]
                    parts[device].write(piece.T if row.transposed else piece, where)
        tick()
    whole = [part.array() for part in parts.values()]
    return jax.make_array_from_single_device_arrays(shape, sharding, whole)


class _DevicePart:
    """A part in an accelerator's memory."""

    def __init__(self, shape, dtype, device: jax.Device):
        self._device = device
        self._array = jnp.zeros(shape, dtype, device=device)

    def write(self, block: np.ndarray, where: list[int]) -> None:
        block = jax.device_put(block, self._device)
        # waited for, else blocks pile up until it is their turn
        self._array = jax.block_until_ready(_write(self._array, block, tuple(where)))

    def array(self) -> jax.Array:
        return self._array


class _HostPart:
    """A part in host memory, aligned so that a CPU device takes it over without a copy."""

    def __init__(self, shape, dtype, device: jax.Device):
        self._device = device
        size = math.prod(shape) * dtype.itemsize
        raw = np.empty(size + _ALIGNMENT, np.uint8)
        first = -raw.ctypes.data % _ALIGNMENT
        self._array = raw[first : first + size].view(dtype).reshape(shape)

    def write(self, block: np.ndarray, where: list[int]) -> None:
        block = block.reshape((1,) * (self._array.ndim - block.ndim) + block.shape)
        place = (slice(at, at + n) for at, n in zip(where, block.shape, strict=True))
        self._array[tuple(place)] = block

    def array(self) -> jax.Array:
        return jax.device_put(self._array, self._device)


@functools.partial(jax.jit, donate_argnums=0)
def _write(part: jax.Array, block: jax.Array, where: tuple[int, ...]) -> jax.Array:
    block = block.astype(part.dtype).reshape((1,) * (part.ndim - block.ndim) + block.shape)
    return jax.lax.dynamic_update_slice(part, block, where)


def _default_device() -> jax.Device:
    chosen = jax.config.jax_default_device
    return chosen if isinstance(chosen, jax.Device) else jax.local_devices()[0]
