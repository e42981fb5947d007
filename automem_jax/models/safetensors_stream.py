"""Writes a safetensors file a piece at a time, whole or not at all.

The safetensors library writes files from tensors that are all in memory. The format itself is a
header with every tensor's place, then the bytes in that order, so it can be written as they come.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from automem_jax.files import atomic_file
from automem_jax.models.tensors import SAFETENSORS_DTYPES, itemsize

_CODES = {name: code for code, name in SAFETENSORS_DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of a tensor. `dtype` is a name: float32, float16, bfloat16, float64."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * itemsize(self.dtype)


class StreamWriter:
    """Takes the tensors' values in the header's order, each in as many pieces as one likes."""

    def __init__(self, file: BinaryIO, tensors: Sequence[TensorInfo], metadata: Mapping[str, str]):
        self._file, self._tensors = file, list(tensors)
        self._at, self._left = -1, 0
        file.write(header(tensors, metadata))

    def write(self, name: str, piece: np.ndarray) -> None:
        """Appends the next values of tensor `name`, converted to its dtype.

        Raises:
          ValueError: it is not this tensor's turn, or these are more values than it has.
        """
        if self._left == 0:
            self._next()
        info = self._tensors[self._at]
        data = np.ascontiguousarray(piece, dtype=_numpy_dtype(info.dtype))
        if name != info.name or data.nbytes > self._left:
            raise ValueError(f"{data.nbytes} bytes of {name!r}: {self._left} of {info.name!r} due")
        self._file.write(data.view(np.uint8).reshape(-1).data if data.size else b"")
        self._left -= data.nbytes

    def finish(self) -> None:
        """Raises ValueError unless every value was written."""
        while self._left == 0 and self._at + 1 < len(self._tensors):
            self._next()
        if self._left:
            raise ValueError(f"{self._left} bytes of {self._tensors[self._at].name!r} are missing")

    def _next(self) -> None:
        self._at += 1
        if self._at == len(self._tensors):
            raise ValueError("all tensors of this file are written")
        self._left = self._tensors[self._at].nbytes


@contextmanager
def stream_safetensors(
    path: str | Path, tensors: Sequence[TensorInfo], metadata: Mapping[str, str]
) -> Iterator[StreamWriter]:
    """A StreamWriter whose file takes its name once all of it is on disk."""
    with atomic_file(path) as file:
        writer = StreamWriter(file, tensors, metadata)
        yield writer
        writer.finish()


def file_size(tensors: Sequence[TensorInfo], metadata: Mapping[str, str]) -> int:
    """Bytes of the file that these tensors make."""
    return len(header(tensors, metadata)) + sum(info.nbytes for info in tensors)


def header(tensors: Sequence[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON header; padded, so that tensors start at a multiple of 8, as the format asks."""
    content: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for info in tensors:
        content[info.name] = {
            "dtype": _CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start, start + info.nbytes],
        }
        start += info.nbytes
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _numpy_dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, None) or name)
