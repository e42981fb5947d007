"""Adapters in the format of the `peft` package: a directory with adapter_config.json and safetensors.

Axes: L layers, I inputs, O outputs, R rank. PEFT keeps lora_A as [R, I] and lora_B as [O, R], a layer
each; ours are [L, I, R] and [L, R, O].
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from automem_jax.files import write_atomically
from automem_jax.models.files import FileFormatError, open_safetensors
from automem_jax.models.layout import BLOCK_OF
from automem_jax.models.lora import TARGETS, Adapter, AdapterError
from automem_jax.models.safetensors_stream import TensorInfo, stream_safetensors
from automem_jax.models.tensors import read_json

CONFIG_FILE = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
_NAME = re.compile(
    r"^base_model\.model\.model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)\.lora_([AB])"
    r"(?:\.[\w-]+)?\.weight$"
)
_UNSUPPORTED = (
    "use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save",
    "layer_replication", "trainable_token_indices", "target_parameters", "use_qalora",
)  # fmt: skip


def export_peft(
    adapter: Adapter,
    directory: str | Path,
    base: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes an adapter that `peft.PeftModel.from_pretrained(model, directory)` loads.

    Values are streamed a layer at a time, float32; scale alpha / rank is the same there.

    Args:
      base: Hugging Face name or path of the base, noted for whoever loads it.
      progress: called with bytes written and bytes to write.

    Raises:
      FileExistsError: the directory holds an adapter already.
    """
    directory = Path(directory)
    if (directory / CONFIG_FILE).exists():
        raise FileExistsError(f"{directory} holds an adapter already; choose another directory")
    targets = [name for name in BLOCK_OF if f"{name}.lora_a" in adapter.weights]
    if not targets:
        raise AdapterError("the adapter has no weights, so there is nothing to write")
    layers = adapter.weights[f"{targets[0]}.lora_a"].shape[0]
    plan: list[tuple[TensorInfo, str, int]] = []
    for layer in range(layers):
        for name in targets:
            place = f"base_model.model.model.layers.{layer}.{BLOCK_OF[name]}.{name}"
            for part, key in (("A", f"{name}.lora_a"), ("B", f"{name}.lora_b")):
                shape = tuple(reversed(adapter.weights[key].shape[1:]))
                plan.append(
                    (TensorInfo(f"{place}.lora_{part}.weight", shape, "float32"), key, layer)
                )
    total, done = sum(info.nbytes for info, _, _ in plan), 0
    path = directory / PEFT_WEIGHTS
    with stream_safetensors(path, [info for info, _, _ in plan], {"format": "pt"}) as writer:
        for info, key, layer in plan:
            writer.write(info.name, np.asarray(adapter.weights[key][layer]).T)
            done += info.nbytes
            if progress is not None:
                progress(done, total)
    alpha = float(adapter.alpha)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": adapter.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    # last, so that a directory with a config is whole
    write_atomically(directory / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def import_peft(directory: str | Path) -> Adapter:
    """Reads an adapter that `peft` wrote.

    Raises:
      FileNotFoundError, FileFormatError: a file is missing or cannot be read.
      AdapterError: not LoRA, a variant that is not computed here, targets that none of ours are, or
        tensors that are missing or do not fit.
    """
    directory = Path(directory)
    if not (directory / CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"{str(directory / CONFIG_FILE)!r} does not exist; a PEFT adapter is a directory with "
            f"{CONFIG_FILE} and {PEFT_WEIGHTS}"
        )
    config = read_json(directory / CONFIG_FILE)
    rank, scale = _settings(config, directory)
    path = directory / PEFT_WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist; save the adapter as safetensors (PEFT's default)"
        )
    found: dict[str, dict[int, str]] = {}
    with open_safetensors(path, framework="numpy") as file:
        for name in file.keys():
            match = _NAME.match(name)
            if not match or BLOCK_OF.get(match[3]) != match[2]:
                raise AdapterError(
                    f"{path}: tensor {name!r} is not a LoRA weight of a decoder's linear layers"
                )
            key = f"{match[3]}.lora_{match[4].lower()}"
            found.setdefault(key, {})[int(match[1])] = name
        modules = {key.partition(".")[0] for key in found}
        targets = next((t for t, names in TARGETS.items() if set(names) == modules), None)
        if targets is None:
            raise AdapterError(
                f"{path}: adapts {', '.join(sorted(modules)) or 'nothing'}; one of "
                + "; ".join(f"{t} ({', '.join(names)})" for t, names in TARGETS.items())
                + " is needed"
            )
        layers = 1 + max(max(places) for places in found.values())
        weights = {}
        for module in TARGETS[targets]:
            for part in ("a", "b"):
                weights[f"{module}.lora_{part}"] = _stack(
                    file, path, found, module, part, layers, rank
                )
    return Adapter(weights, rank, scale * rank, targets)


def _stack(file, path, found, module, part, layers, rank) -> np.ndarray:
    places, stack = found.get(f"{module}.lora_{part}", {}), None
    for layer in range(layers):
        if layer not in places:
            raise AdapterError(
                f"{path}: lora_{part.upper()} of {module} in layer {layer} is missing"
            )
        value = np.asarray(file.get_tensor(places[layer]), np.float32).T
        if stack is None:
            stack = np.empty((layers, *value.shape), np.float32)
        if value.shape != stack.shape[1:] or value.shape[part == "a"] != rank:
            raise AdapterError(
                f"{path}: {places[layer]!r} has shape {value.shape[::-1]}, which is not of rank {rank} "
                "or differs from the other layers'"
            )
        stack[layer] = value
    return stack


def _settings(config: dict, directory: Path) -> tuple[int, float]:
    """Rank and scale of an adapter_config.json."""
    place = directory / CONFIG_FILE
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{place}: peft_type {config.get('peft_type')!r}; only LORA is computed")
    odd = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("bias", "none") != "none":
        odd.append("bias")
    if odd:
        raise AdapterError(f"{place}: {', '.join(odd)} is set, which is not computed here")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{place}: r and lora_alpha must be numbers ({error})") from error
    if rank < 1 or not math.isfinite(alpha):
        raise FileFormatError(f"{place}: r {rank} must be at least 1, lora_alpha {alpha} finite")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
