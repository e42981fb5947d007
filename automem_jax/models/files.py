"""Safetensors files, written whole or not at all, read with errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from automem_jax.files import write_atomically


class FileFormatError(ValueError):
    """A file that exists and cannot be read as what it should be."""


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes tensors (sorted by name) and metadata whole or not at all."""
    from safetensors.numpy import save

    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    write_atomically(path, _with_sorted_metadata(save(ordered, metadata=dict(metadata))))


def _with_sorted_metadata(data: bytes) -> bytes:
    """The same file with its metadata in order: the library writes them in a random one."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8, as the format asks
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def open_safetensors(path: str | Path, framework: str = "flax") -> Any:
    """An open safetensors reader (a context manager), bfloat16 included.

    It yields JAX arrays, or with `framework` "numpy" numpy's, which stay off the device.

    Raises:
      FileNotFoundError: no such file. FileFormatError: not safetensors, or cut short.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist; check the directory or download it")
    try:
        return safe_open(str(path), framework=framework)
    except SafetensorError as error:
        raise FileFormatError(
            f"{path}: not a readable safetensors file ({error}); write or download it again"
        ) from error


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors as numpy arrays, and the metadata. Raises as `open_safetensors`."""
    with open_safetensors(path) as file:
        return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}, (
            file.metadata() or {}
        )
