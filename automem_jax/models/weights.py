"""Base weights on disk: a directory with config.json and safetensors under Hugging Face's names.

A checkpoint of the Qwen2, Qwen3 or Llama family loads as it is; the embedded model is kept the
same way. Kernels are [in, out] in memory and [out, in] on disk.

Axes: L layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from automem_jax.files import write_atomically
from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import BaseWeight, Decoder
from automem_jax.models.files import (
    FileFormatError,
    open_safetensors,
    write_safetensors,
)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class WeightsError(ValueError):
    """Weights that do not fit the config: which tensor, what it is, what it should be."""


def load_model(source: str, dtype: Any = jnp.float32) -> tuple[Decoder, DecoderConfig]:
    """The model of `source`: "embedded", or a directory with config.json and safetensors.

    Args:
      dtype: of weights and activations, a dtype or its name.

    Raises:
      FileNotFoundError: a file is missing. FileFormatError: a file cannot be read.
      WeightsError: a tensor is missing or has the wrong shape.
    """
    if source == "embedded":
        with resources.as_file(resources.files("automem_jax.models") / "assets") as assets:
            return _load_directory(assets, jnp.dtype(dtype))
    return _load_directory(Path(source), jnp.dtype(dtype))


def save_model(
    model: Decoder, directory: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes config.json and model.safetensors (base weights only, in their own dtype).

    `metadata` goes into the safetensors header.
    """
    directory = Path(directory)
    tensors = {name: np.asarray(value) for name, value in named_tensors(model)}
    write_safetensors(directory / WEIGHTS_FILE, tensors, {"format": "pt", **(metadata or {})})
    config = model.config.to_hf() | {"torch_dtype": str(model.embed.get_value().dtype)}
    write_atomically(directory / "config.json", json.dumps(config, indent=2) + "\n")


def base_hash(model: Decoder) -> str:
    """SHA-256 hex of all base weights, adapters not included.

    Hashed by sorted Hugging Face name, as float32: the same values hash alike in any order of
    construction and any dtype that holds them.
    """
    digest = hashlib.sha256()
    for name, value in sorted(named_tensors(model), key=lambda item: item[0]):
        value = np.ascontiguousarray(np.asarray(value).astype("<f4"))
        digest.update(f"{name}{value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def named_tensors(model: Decoder) -> Iterator[tuple[str, Any]]:
    """Base weights by Hugging Face name, in Hugging Face's layout, one a layer."""
    for template, variable, transposed in _layout(model):
        value = variable.get_value()
        if "{layer}" not in template:
            yield template, value.T if transposed else value
            continue
        for layer in range(model.config.num_layers):
            slice_ = value[layer]
            yield template.format(layer=layer), slice_.T if transposed else slice_


def _layout(model: Decoder) -> list[tuple[str, BaseWeight, bool]]:
    """(name template, variable, whether the last two axes are swapped on disk)."""
    layers = model.layers
    rows: list[tuple[str, Any, bool]] = [("model.embed_tokens.weight", model.embed, False)]
    for block, names in (
        ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("mlp", ("gate_proj", "up_proj", "down_proj")),
    ):
        for name in names:
            linear, place = getattr(layers, name), f"model.layers.{{layer}}.{block}.{name}"
            rows.append((f"{place}.weight", linear.kernel, True))
            rows.append((f"{place}.bias", linear.bias, False))
    for place, norm in (
        ("self_attn.q_norm", layers.q_norm),
        ("self_attn.k_norm", layers.k_norm),
        ("input_layernorm", layers.attention_norm),
        ("post_attention_layernorm", layers.mlp_norm),
    ):
        if norm is not None:
            rows.append((f"model.layers.{{layer}}.{place}.weight", norm.scale, False))
    rows.append(("model.norm.weight", model.final_norm.scale, False))
    rows.append(("lm_head.weight", model.head, True))
    return [row for row in rows if row[1] is not None]


def _load_directory(directory: Path, dtype: Any) -> tuple[Decoder, DecoderConfig]:
    config = DecoderConfig.from_hf(_read_json(directory / "config.json"))
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(params=0), dtype=dtype))
    read = _tensor_reader(directory)
    for template, variable, transposed in _layout(model):
        shape = variable.get_value().shape
        stacked = "{layer}" in template
        names = [template]
        if stacked:
            names = [template.format(layer=layer) for layer in range(config.num_layers)]
            shape = shape[1:]
        wanted = shape[::-1] if transposed else shape
        parts = []
        for name in names:
            value = read(name)
            if tuple(value.shape) != wanted:
                raise WeightsError(
                    f"{directory}: tensor {name!r} has shape {tuple(value.shape)}, config.json asks "
                    f"for {wanted}; config and weights are of different models"
                )
            value = value.astype(dtype)
            parts.append(value.T if transposed else value)
        variable.set_value(jnp.stack(parts) if stacked else jnp.asarray(parts[0]))
    return model, config


def _tensor_reader(directory: Path) -> Callable[[str], Any]:
    """name -> array, from one file or from the shards that the index names."""
    index_path = directory / INDEX_FILE
    where: dict[str, str]
    if not (directory / WEIGHTS_FILE).is_file() and index_path.is_file():
        where = _read_json(index_path).get("weight_map", {})
    else:
        with open_safetensors(directory / WEIGHTS_FILE) as file:
            where = dict.fromkeys(file.keys(), WEIGHTS_FILE)

    def read(name: str) -> Any:
        if name not in where:
            raise WeightsError(
                f"{directory}: tensor {name!r} is missing ({len(where)} tensors are there); "
                "download the checkpoint again or check that config.json belongs to it"
            )
        with open_safetensors(directory / where[name]) as file:
            if name not in file.keys():
                raise WeightsError(
                    f"{directory / where[name]}: tensor {name!r} is missing although the index "
                    "names this shard; download the shard again"
                )
            return file.get_tensor(name)

    return read


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist; a model directory holds config.json and {WEIGHTS_FILE}"
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{path}: not JSON ({error}); download it again") from error
