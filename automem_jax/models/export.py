"""Streams weights into a Hugging Face directory, with an adapter merged in or without.

One block of rows is in memory at a time. Shards appear whole; a run that was stopped goes on with the
first shard that is missing.

Axes: L layers, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from automem_jax.files import write_atomically
from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import Decoder
from automem_jax.models.layout import layout
from automem_jax.models.load import CHUNK_BYTES, abstract_model, check_tensors
from automem_jax.models.lora import Adapter, AdapterError, get_adapter
from automem_jax.models.safetensors_stream import TensorInfo, file_size, stream_safetensors
from automem_jax.models.tensors import (
    INDEX_FILE,
    WEIGHTS_FILE,
    ModelSource,
    TensorSource,
    row_chunks,
)

SHARD_BYTES = 5 * 10**9
DTYPES = ("float32", "bfloat16", "float16")
_METADATA = {"format": "pt"}


@dataclass(frozen=True)
class Planned:
    """A tensor to be written, and the adapter's part of it, where it has one."""

    info: TensorInfo
    module: str | None
    layer: int | None


def export_merged(
    model: Decoder,
    index: int,
    directory: str | Path,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `model` with its adapter `index` (from 1) merged in, as a Hugging Face directory.

    Raises:
      AdapterError: no such adapter. FileExistsError: the directory holds weights.
    """
    directory = Path(directory)
    if any((directory / name).exists() for name in (WEIGHTS_FILE, INDEX_FILE)):
        raise FileExistsError(f"{directory} holds weights already; choose another directory")
    write_hf(
        ModelSource(model), model.config, directory, get_adapter(model, index), dtype, progress
    )


def write_hf(
    source: TensorSource,
    config: DecoderConfig,
    directory: Path,
    adapter: Adapter | None = None,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    config_json: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors (with an index where they are several).

    Shards that are there and of the right size are kept: call it again to go on where it stopped.

    Args:
      adapter: merged into the kernels, W + (alpha / rank) A B, in float32.
      dtype: of what is written; None: as the source has it.
      progress: called with bytes written and bytes to write.
      config_json: the config.json to write; None: made from `config`.

    Raises:
      WeightsError: the source does not fit the config. AdapterError: nor does the adapter.
      ValueError: an unknown dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if adapter is not None:
        check_adapter(adapter, config)
    shards = _shards(_plan(source, config, adapter, dtype), shard_bytes)
    names = _shard_names(len(shards))
    total = sum(planned.info.nbytes for shard in shards for planned in shard)
    done, weight_map = 0, {}
    directory.mkdir(parents=True, exist_ok=True)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for name, shard in zip(names, shards, strict=True):
        infos = [planned.info for planned in shard]
        weight_map |= {info.name: name for info in infos}
        path = directory / name
        if path.is_file() and path.stat().st_size == file_size(infos, _METADATA):
            tick(sum(info.nbytes for info in infos))
            continue
        with stream_safetensors(path, infos, _METADATA) as writer:
            for planned in shard:
                _write_tensor(writer, planned, source, adapter, tick)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_atomically(directory / INDEX_FILE, json.dumps(index, indent=2) + "\n")
    stored = shards[0][0].info.dtype
    content = dict(config.to_hf() if config_json is None else config_json)
    content.pop("quantization_config", None)
    content |= {"torch_dtype": stored} | ({"dtype": stored} if "dtype" in content else {})
    write_atomically(directory / "config.json", json.dumps(content, indent=2) + "\n")


def check_adapter(adapter: Adapter, config: DecoderConfig) -> None:
    """Raises AdapterError unless the adapter's shapes are those of a base of this config."""
    layers = abstract_model(config, "float32").layers
    for key, value in adapter.weights.items():
        module, _, part = key.partition(".")
        linear = getattr(layers, module, None)
        if linear is None:
            raise AdapterError(f"adapter tensor {key!r} has no place in a {config.family} decoder")
        count, inputs, outputs = linear.kernel.get_value().shape
        wanted = (
            (count, inputs, adapter.rank) if part == "lora_a" else (count, adapter.rank, outputs)
        )
        if tuple(value.shape) != wanted:
            raise AdapterError(
                f"adapter tensor {key!r} has shape {tuple(value.shape)}, this base needs {wanted}; it "
                "was made for another base"
            )


def _plan(
    source: TensorSource, config: DecoderConfig, adapter: Adapter | None, dtype: str | None
) -> list[Planned]:
    """Every tensor in the order of the layers, embedding first and head last."""
    rows = layout(abstract_model(config, "float32"))
    check_tensors(rows, config, source)
    plans: dict[int, list[Planned]] = {}
    for row in rows:
        for layer, name in row.names(config.num_layers):
            stored = source.dtype(name)
            info = TensorInfo(
                name, source.shape(name), dtype or ("float32" if stored == "float64" else stored)
            )
            module = row.path.split(".")[1] if row.path.endswith(".kernel") else None
            if adapter is None or f"{module}.lora_a" not in adapter.weights:
                module = None
            order = layer if layer is not None else -1 if row.path == "embed" else config.num_layers
            plans.setdefault(order, []).append(Planned(info, module, layer))
    return [planned for order in sorted(plans) for planned in plans[order]]


def _shards(plan: Sequence[Planned], shard_bytes: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    size = 0
    for planned in plan:
        if shards[-1] and size + planned.info.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(planned)
        size += planned.info.nbytes
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [WEIGHTS_FILE]
    return [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def _write_tensor(
    writer, planned: Planned, source: TensorSource, adapter: Adapter | None, tick
) -> None:
    info = planned.info
    columns = info.shape[1] if len(info.shape) > 1 else 1
    low = high = None
    if planned.module is not None:
        low = np.asarray(adapter.weights[f"{planned.module}.lora_a"][planned.layer], np.float32)
        high = np.asarray(adapter.weights[f"{planned.module}.lora_b"][planned.layer], np.float32)
    for start, stop in row_chunks(range(info.shape[0]), columns, "float32", CHUNK_BYTES):
        block = source.read(info.name, slice(start, stop))
        if low is not None:
            scale = np.float32(adapter.alpha / adapter.rank)
            block = block.astype(np.float32) + scale * (high[:, start:stop].T @ low.T)
        writer.write(info.name, block)
        tick((stop - start) * info.nbytes // info.shape[0])
