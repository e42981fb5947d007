"""Base weights on disk: Hugging Face directories, GGUF files and Orbax checkpoints, in and out.

A checkpoint of the Qwen2, Qwen3 or Llama family loads as it is; the embedded model is kept the
same way. Weights go straight into (sharded) device arrays, see load.py.

Axes: L layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from automem_jax.files import write_atomically
from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import Decoder
from automem_jax.models.files import FileFormatError, write_safetensors
from automem_jax.models.layout import BLOCK_OF, layout
from automem_jax.models.load import abstract_model, fill
from automem_jax.models.quantize import quantize_base
from automem_jax.models.tensors import (
    INDEX_FILE,
    WEIGHTS_FILE,
    SafetensorsSource,
    TensorSource,
    WeightsError,
    read_config,
    read_json,
)
from automem_jax.sharding import DEFAULT_RULES, LogicalRules, variable_sharding
from automem_jax.text.sources import gguf_of, resolve
from automem_jax.text.tokenizer import VocabularyError, check_vocabulary

__all__ = ["INDEX_FILE", "WEIGHTS_FILE", "VocabularyError", "WeightsError"]
ORBAX_DIRECTORY = "orbax"


def load_model(
    source: str | Path,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: LogicalRules = DEFAULT_RULES,
    progress: Callable[[int, int], None] | None = None,
    quantization: str | None = None,
) -> tuple[Decoder, DecoderConfig]:
    """The model of `source`, and its config.

    Args:
      source: the name of a shipped model ("embedded") or of a fetched one ("smollm2-135m"), a GGUF file,
        or a directory with config.json and safetensors (one file or shards), an Orbax checkpoint or a
        GGUF file.
      dtype: of weights and activations, a dtype or its name; stored ones are converted on the way.
      mesh: arrays are laid over it by their logical axes; None: one device.
      progress: called with tensors read and tensors to read.
      quantization: of the frozen base's projections, see quantize.KINDS; None keeps `dtype`.

    Raises:
      FileNotFoundError: a file or a shard is missing. FileFormatError: a file cannot be read.
      ValueError: a config of another family, or one that asks for what is not computed.
      WeightsError: a tensor is missing or has the wrong shape.
      VocabularyError: the tokenizer beside the weights is of another model.
    """
    path, dtype = resolve(source), jnp.dtype(dtype)
    if (path / ORBAX_DIRECTORY).is_dir():
        model = _load_orbax(path, dtype, mesh, rules)
        _check_tokenizer(path, model.config)
        if quantization:
            quantize_base(model, quantization)
    else:
        tensors, config = open_tensors(path)
        _check_tokenizer(path, config)
        model = fill(config, tensors, dtype, mesh, rules, progress, quantization)
    return model, model.config


def load_hf(
    directory: str | Path,
    mesh: Mesh | None = None,
    dtype: Any = jnp.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Decoder:
    """The model of a Hugging Face directory (or another source, see `load_model`), which also lists
    the errors. Beside the arrays themselves it takes a few blocks of 16 MiB of host memory."""
    return load_model(directory, dtype, mesh, progress=progress)[0]


def open_tensors(path: str | Path) -> tuple[TensorSource, DecoderConfig]:
    """Tensors and config of a directory with safetensors, or of a GGUF file. Raises as `load_model`."""
    path = Path(path)
    gguf = gguf_of(path)
    if gguf is not None:
        from automem_jax.models.gguf import GGUFSource

        tensors = GGUFSource(gguf)
        return tensors, tensors.config
    config = read_config(path)
    return SafetensorsSource(path), config


def save_model(
    model: Decoder, directory: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes config.json and model.safetensors (base weights only, in their own dtype).

    `metadata` goes into the safetensors header.
    """
    directory = Path(directory)
    tensors = {name: np.asarray(value) for name, value in named_tensors(model)}
    write_safetensors(directory / WEIGHTS_FILE, tensors, {"format": "pt", **(metadata or {})})
    write_config(model.config, directory, str(model.embed.get_value().dtype))


def write_config(config: DecoderConfig, directory: Path, dtype: str) -> None:
    """Writes config.json."""
    content = config.to_hf() | {"torch_dtype": dtype}
    write_atomically(directory / "config.json", json.dumps(content, indent=2) + "\n")


def save_orbax(model: Decoder, directory: str | Path) -> None:
    """Writes config.json and an Orbax checkpoint of the base weights; each process its own shards.

    Raises:
      FileExistsError: the directory holds one already.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    if (directory / ORBAX_DIRECTORY).exists():
        raise FileExistsError(f"{directory / ORBAX_DIRECTORY} exists; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    weights = {row.path: row.variable.get_value() for row in layout(model)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / ORBAX_DIRECTORY, weights)
        checkpointer.wait_until_finished()
    if jax.process_index() == 0:
        write_config(model.config, directory, str(model.embed.get_value().dtype))


def base_hash(model: Decoder) -> str:
    """SHA-256 hex of all base weights, adapters not included.

    Hashed by sorted Hugging Face name, as float32: the same values hash alike in any order of
    construction and any dtype that holds them.
    """
    digest = hashlib.sha256()
    tensors = [*named_tensors(model), *_codes(model)]
    for name, value in sorted(tensors, key=lambda item: item[0]):
        value = np.ascontiguousarray(np.asarray(value).astype("<f4"))
        digest.update(f"{name}{value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def named_tensors(model: Decoder) -> Iterator[tuple[str, Any]]:
    """Base weights by Hugging Face name, in Hugging Face's layout, one a layer."""
    for row in layout(model):
        value = row.variable.get_value()
        for layer, name in row.names(model.config.num_layers):
            part = value if layer is None else value[layer]
            yield name, part.T if row.transposed else part


def _codes(model: Decoder) -> Iterator[tuple[str, Any]]:
    """Codes and scales of a quantised base, one a layer, under names beside the kernels'."""
    for name, linear in model.linears().items():
        if linear.kernel is None:
            for part in ("codes", "scales"):
                value = getattr(linear, part).get_value()
                for layer in range(model.config.num_layers):
                    yield f"model.layers.{layer}.{BLOCK_OF[name]}.{name}.{part}", value[layer]


def _load_orbax(directory: Path, dtype: Any, mesh: Mesh | None, rules: LogicalRules) -> Decoder:
    import orbax.checkpoint as ocp

    config = read_config(directory)
    model = abstract_model(config, dtype)
    wanted = {}
    for row in layout(model):
        shape = row.variable.get_value().shape
        sharding = None if mesh is None else variable_sharding(row.variable, mesh, rules)
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted[row.path] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    place = directory / ORBAX_DIRECTORY
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.metadata(place.absolute()).item_metadata
            stored = {name: tuple(leaf.shape) for name, leaf in dict(found).items()}
            for name in sorted(stored.keys() | wanted.keys()):
                shape = wanted[name].shape if name in wanted else None
                if stored.get(name) != shape:
                    raise WeightsError(
                        f"{place}: array {name!r} has shape {stored.get(name)}, config.json asks for "
                        f"{shape}; config and weights are of different models"
                    )
            weights = checkpointer.restore(place.absolute(), wanted)
    except WeightsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{place}: not a readable Orbax checkpoint ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}); convert the weights again"
        ) from error
    for row in layout(model):
        row.variable.set_value(weights[row.path])
    return model


def _check_tokenizer(path: Path, config: DecoderConfig) -> None:
    """Compares the vocabulary of a tokenizer.json beside the weights with the embedding."""
    file = path / "tokenizer.json"
    if not file.is_file():
        return
    content = read_json(file)
    vocabulary = (content.get("model") or {}).get("vocab") or {}
    ids = list(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary)))
    ids += [token["id"] for token in content.get("added_tokens") or ()]
    if ids:
        check_vocabulary(max(ids) + 1, config.vocab_size, str(file))
