"""Tensors by Hugging Face name, read a slice at a time: from safetensors shards or a live model.

A source never hands out more than was asked for, so that a checkpoint larger than the host's memory
can be read.

Axes: L layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from automem_jax.models.config import DecoderConfig
from automem_jax.models.files import FileFormatError, open_safetensors

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}


class WeightsError(ValueError):
    """Weights that do not fit the config: which tensor, what it is, what it should be."""


class TensorSource(Protocol):
    """Tensors on disk in Hugging Face's layout (kernels [out, in])."""

    place: str  # what error messages call it

    def names(self) -> list[str]:
        """All tensor names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises WeightsError where there is no such tensor."""

    def dtype(self, name: str) -> str:
        """The dtype that `read` gives, by name."""

    def read(self, name: str, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        """Rows of a vector, or a block of a matrix. Bounds are plain: start, stop, no step."""


class SafetensorsSource:
    """The safetensors shards of a directory; only headers are read until a slice is asked for.

    Raises (on construction):
      FileNotFoundError: no weights, or a shard that the index names is missing.
      FileFormatError: a shard or the index cannot be read, or is cut short.
      WeightsError: a shard lacks a tensor that the index places in it, or one of an odd dtype.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.place = str(directory)
        index = self.directory / INDEX_FILE
        where: dict[str, str] | None = None
        if not (self.directory / WEIGHTS_FILE).is_file() and index.is_file():
            where = read_json(index).get("weight_map")
            if not isinstance(where, dict) or not where:
                raise FileFormatError(f"{index}: no weight_map; download it again")
        shards = sorted(set(where.values())) if where else [WEIGHTS_FILE]
        gone = [name for name in shards if not (self.directory / name).is_file()]
        if gone:
            raise FileNotFoundError(
                f"{str(self.directory / gone[0])!r} does not exist"
                + (f" ({len(gone)} of {len(shards)} shards are missing)" if where else "")
                + "; download the checkpoint again"
            )
        self._tensors: dict[str, tuple[str, tuple[int, ...], str]] = {}
        for shard in shards:
            with open_safetensors(self.directory / shard, "numpy") as file:
                for name in file.keys():
                    if where is None or where.get(name) == shard:
                        header = file.get_slice(name)
                        self._tensors[name] = shard, tuple(header.get_shape()), header.get_dtype()
        for name, shard in (where or {}).items():
            if name not in self._tensors:
                raise WeightsError(
                    f"{self.directory / shard}: tensor {name!r} is missing although the index names "
                    "this shard; download the shard again"
                )

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors:
            raise missing(self, name)
        return self._tensors[name][1]

    def dtype(self, name: str) -> str:
        stored = self._tensors[name][2]
        if stored not in SAFETENSORS_DTYPES:
            raise WeightsError(
                f"{self.place}: tensor {name!r} is stored as {stored}; only "
                f"{', '.join(SAFETENSORS_DTYPES)} are read"
            )
        return SAFETENSORS_DTYPES[stored]

    def read(self, name: str, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        import ml_dtypes  # noqa: F401  numpy learns bfloat16

        shard, shape, _ = self._tensors[name]
        self.dtype(name)
        # opened anew for each slice: pages of the file leave this process's memory with the reader
        with open_safetensors(self.directory / shard, "numpy") as file:
            part = file.get_slice(name)
            if len(shape) == 1:
                return part[rows.start : rows.stop]
            start, stop, _ = columns.indices(shape[1])
            return part[rows.start : rows.stop, start:stop]


class ModelSource:
    """The base weights of a model in memory, cut out of their stacks on the device."""

    def __init__(self, model: Any):
        from automem_jax.models.layout import layout

        self.place = "the model in memory"
        self._where: dict[str, tuple[Any, int | None, bool]] = {}
        for row in layout(model):
            for layer, name in row.names(model.config.num_layers):
                self._where[name] = row.variable.get_value(), layer, row.transposed

    def names(self) -> list[str]:
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._where:
            raise missing(self, name)
        value, layer, transposed = self._where[name]
        shape = value.shape if layer is None else value.shape[1:]
        return shape[::-1] if transposed else shape

    def dtype(self, name: str) -> str:
        return str(self._where[name][0].dtype)

    def read(self, name: str, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        value, layer, transposed = self._where[name]
        if layer is not None:
            value = value[layer]
        if value.ndim == 1:
            return np.asarray(value[rows])
        return (
            np.asarray(value[columns, rows]).T if transposed else np.asarray(value[rows, columns])
        )


def missing(source: TensorSource, name: str) -> WeightsError:
    """The error for a tensor that is not there."""
    return WeightsError(
        f"{source.place}: tensor {name!r} is missing ({len(source.names())} tensors are there); "
        "download the checkpoint again or check that config.json belongs to it"
    )


def row_chunks(
    rows: range, columns: int, dtype: str, chunk_bytes: int
) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive blocks of `rows` of at most `chunk_bytes` (one row at least)."""
    step = max(1, chunk_bytes // max(1, columns * itemsize(dtype)))
    for start in range(rows.start, rows.stop, step):
        yield start, min(start + step, rows.stop)


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    import ml_dtypes

    return 2 if dtype == "bfloat16" else np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize


def read_config(directory: Path) -> DecoderConfig:
    """The DecoderConfig of a directory's config.json."""
    path = directory / "config.json"
    try:
        return DecoderConfig.from_hf(read_json(path))
    except (ValueError, TypeError) as error:
        if str(directory) in str(error):
            raise
        raise type(error)(f"{directory}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model directory."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist; a model directory holds config.json and {WEIGHTS_FILE}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{path}: not a JSON object; download it again")
    return content
