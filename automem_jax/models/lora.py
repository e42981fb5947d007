"""LoRA adapters beside a frozen base: several resident, one chosen per row.

Every resident adapter is applied and masked (a gather per row costs more). Hu et al., "LoRA",
arXiv 2106.09685: y = x W + (alpha / rank) x A B, with B zero at the start.

Axes: L layers, N adapters, R rank, I inputs, O outputs. An adapter's weights are a flat mapping,
"q_proj.lora_a" -> [L, I, R], "q_proj.lora_b" -> [L, R, O].
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from automem_jax.models.decoder import PROJECTIONS, BaseWeight, Decoder, Linear
from automem_jax.models.files import FileFormatError, read_safetensors, write_safetensors

TARGETS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qv": ("q_proj", "v_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all_linear": PROJECTIONS,
}


class AdapterError(ValueError):
    """An adapter that does not fit the model, or an index that no adapter has."""


@dataclass(frozen=True)
class Adapter:
    """One adapter outside a model.

    Attributes:
      weights: flat mapping, see the module's docstring; float32.
      rank, alpha: R, and the numerator of the scale alpha / R.
      targets: a key of TARGETS.
      base_hash: `weights.base_hash` of the base that it was trained on; empty where unknown.
    """

    weights: Mapping[str, jax.Array | np.ndarray]
    rank: int
    alpha: float
    targets: str
    base_hash: str = ""

    def hash(self) -> str:
        """SHA-256 hex of weights, rank, alpha and targets."""
        digest = hashlib.sha256(json.dumps([self.rank, float(self.alpha), self.targets]).encode())
        for name in sorted(self.weights):
            value = np.ascontiguousarray(np.asarray(self.weights[name], dtype="<f4"))
            digest.update(f"{name}{value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


def add_adapters(
    model: Decoder,
    count: int,
    rank: int,
    alpha: float,
    targets: str,
    rngs: nnx.Rngs,
    dropout: float = 0.0,
) -> None:
    """Gives `model`, in place, `count` fresh adapters (numbered from 1); replaces those it has.

    A is uniform in +-1 / sqrt(inputs) from the stream `params` of `rngs`, B is zero: each adapter
    starts as the base. Adapters are float32 whatever the base's type.

    Args:
      dropout: share of each adapted projection's input that the adapter does not see, where a
        forward pass is given a dropout key (in training); without one nothing is dropped.

    Raises:
      AdapterError: unknown targets, a rank or count below 1, or a dropout outside [0, 1).
    """
    if targets not in TARGETS:
        raise AdapterError(f"targets {targets!r} unknown; one of {', '.join(TARGETS)}")
    if rank < 1 or count < 1:
        raise AdapterError(f"rank {rank} and count {count} must both be at least 1")
    if not 0.0 <= dropout < 1.0:
        raise AdapterError(f"dropout {dropout} must be at least 0 and below 1")
    model.adapter_count = count
    model.adapter_rank, model.adapter_alpha, model.adapter_targets = rank, float(alpha), targets
    for name, linear in _linears(model):
        if name not in TARGETS[targets]:
            linear.lora_a = linear.lora_b = nnx.data(None)
            continue
        layers, inputs, outputs = linear.shape
        in_axis, out_axis = linear.axes
        first = jax.random.uniform(
            rngs.params(), (layers, count, inputs, rank), jnp.float32, -1.0, 1.0
        )
        linear.lora_a = nnx.LoRAParam(
            first * inputs**-0.5, axes=("layers", "adapters", in_axis, rank_axis(in_axis))
        )
        linear.lora_b = nnx.LoRAParam(
            jnp.zeros((layers, count, rank, outputs), jnp.float32),
            axes=("layers", "adapters", rank_axis(out_axis), out_axis),
        )
        linear.lora_scale, linear.lora_dropout = float(alpha) / rank, dropout


def rank_axis(other: str) -> str:
    """Logical axis of the rank beside axis `other`: split where the other leaves the tensor axis free."""
    return "rank_split" if other == "embed" else "rank"


def get_adapter(model: Decoder, index: int) -> Adapter:
    """Adapter `index` (from 1) of a model, as it stands."""
    _check_index(model, index)
    weights = {}
    for name, linear in _adapted(model):
        weights[f"{name}.lora_a"] = linear.lora_a[...][:, index - 1]
        weights[f"{name}.lora_b"] = linear.lora_b[...][:, index - 1]
    return Adapter(weights, model.adapter_rank, model.adapter_alpha, model.adapter_targets)


def set_adapter(
    model: Decoder, index: int, adapter: Adapter | Mapping[str, jax.Array | np.ndarray]
) -> None:
    """Overwrites adapter `index` (from 1), in place.

    Raises:
      AdapterError: rank, alpha, targets, names or shapes differ from the model's own.
    """
    _check_index(model, index)
    own = get_adapter(model, index)
    if not isinstance(adapter, Adapter):
        adapter = dataclasses.replace(own, weights=adapter)
    for field in ("rank", "alpha", "targets"):
        if getattr(adapter, field) != getattr(own, field):
            raise AdapterError(
                f"adapter has {field} {getattr(adapter, field)!r}, the model's adapters "
                f"{getattr(own, field)!r}; call add_adapters with the adapter's own settings"
            )
    odd = set(adapter.weights) ^ set(own.weights)
    if odd:
        raise AdapterError(
            f"adapter and model differ in {sorted(odd)[:4]}; train it for this model"
        )
    for key, value in own.weights.items():
        if adapter.weights[key].shape != value.shape:
            raise AdapterError(
                f"adapter tensor {key!r} has shape {adapter.weights[key].shape}, the model needs "
                f"{value.shape}; it was made for another base"
            )
    for name, linear in _adapted(model):
        for part, variable in (("lora_a", linear.lora_a), ("lora_b", linear.lora_b)):
            new = jnp.asarray(adapter.weights[f"{name}.{part}"], jnp.float32)
            variable.set_value(variable.get_value().at[:, index - 1].set(new))


def with_adapters(model: Decoder, adapters: Sequence[Adapter]) -> Decoder:
    """A model that shares `model`'s base arrays and has `adapters` resident, numbered from 1."""
    shared = nnx.merge(*nnx.split(model), copy=True)
    if adapters:
        first = adapters[0]
        add_adapters(
            shared, len(adapters), first.rank, first.alpha, first.targets, nnx.Rngs(params=0)
        )
        for index, adapter in enumerate(adapters, start=1):
            set_adapter(shared, index, adapter)
    return shared


def merge(model: Decoder, index: int) -> Decoder:
    """A model without adapters whose kernels hold W + (alpha / rank) A B of adapter `index`.

    Kernels of a quantised base that the adapter targets become float; the others stay quantised.
    """
    _check_index(model, index)
    merged = nnx.merge(*nnx.split(model), copy=True)
    for _name, linear in _adapted(merged):
        a, b = linear.lora_a[...][:, index - 1], linear.lora_b[...][:, index - 1]
        delta = linear.lora_scale * jnp.einsum("lir,lro->lio", a, b)
        dtype = merged.embed.get_value().dtype
        whole = (linear.weight(jnp.float32).astype(jnp.float32) + delta).astype(dtype)
        linear.kernel = BaseWeight(whole, axes=("layers", *linear.axes))
        linear.codes = linear.scales = nnx.data(None)
    for _, linear in _linears(merged):
        linear.lora_a = linear.lora_b = nnx.data(None)
    merged.adapter_count = 0
    return merged


def save_adapter(path: str | Path, adapter: Adapter, base_hash: str | None = None) -> None:
    """Writes safetensors with metadata rank, alpha, targets, base_hash; whole or not at all."""
    metadata = {
        "format": "automem_jax.lora",
        "rank": str(adapter.rank),
        "alpha": repr(float(adapter.alpha)),
        "targets": adapter.targets,
        "base_hash": adapter.base_hash if base_hash is None else base_hash,
    }
    tensors = {k: np.asarray(v, dtype=np.float32) for k, v in adapter.weights.items()}
    write_safetensors(path, tensors, metadata)


def load_adapter(path: str | Path, base_hash: str | None = None) -> Adapter:
    """Reads what `save_adapter` wrote.

    Args:
      base_hash: hash of the base that it is to serve; checked where both are known.

    Raises:
      FileNotFoundError, FileFormatError, or AdapterError for an adapter of another base.
    """
    tensors, metadata = read_safetensors(path)
    missing = {"rank", "alpha", "targets", "base_hash"} - set(metadata)
    if missing:
        raise FileFormatError(f"{path}: metadata {sorted(missing)} missing; not an adapter of ours")
    if base_hash and metadata["base_hash"] and metadata["base_hash"] != base_hash:
        raise AdapterError(
            f"{path} was trained on base {metadata['base_hash'][:12]}, this model is "
            f"{base_hash[:12]}; load that base or train the adapter again"
        )
    return Adapter(
        tensors,
        int(metadata["rank"]),
        float(metadata["alpha"]),
        metadata["targets"],
        metadata["base_hash"],
    )


def _linears(model: Decoder) -> Iterator[tuple[str, Linear]]:
    yield from model.linears().items()


def _adapted(model: Decoder) -> Iterator[tuple[str, Linear]]:
    return ((name, linear) for name, linear in _linears(model) if linear.lora_a is not None)


def _check_index(model: Decoder, index: int) -> None:
    if not 1 <= index <= model.adapter_count:
        raise AdapterError(
            f"adapter {index} does not exist; this model has {model.adapter_count}, numbered from 1"
        )
