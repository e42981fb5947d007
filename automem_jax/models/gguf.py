"""GGUF files: config from the metadata, tensors by Hugging Face name, dequantised block by block.

llama.cpp's converter reorders the rows of llama's query and key projections, from (half, pair) to
(pair, half) within each head, because it rotates neighbouring values. Here they come back in Hugging
Face's order. Qwen's are not reordered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from automem_jax.models.config import DecoderConfig
from automem_jax.models.files import FileFormatError
from automem_jax.models.tensors import WeightsError, missing
from automem_jax.text.gguf_tokenizer import metadata, open_gguf

FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFSource:
    """Tensors of one GGUF file; floats as they are stored, quantised ones as float32.

    Raises (on construction):
      FileNotFoundError: no such file. FileFormatError: not GGUF, or cut short.
      WeightsError: an architecture, a quantisation or a rope setting that cannot be computed.
    """

    def __init__(self, path: str | Path):
        self.place = str(path)
        try:
            self._reader = open_gguf(path)
        except ValueError as error:
            raise FileFormatError(str(error)) from error
        self.config = _config(self._reader, self.place)
        self.token_ids = {
            f"{ours}_token_id": found
            for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
            if (found := metadata(self._reader, f"tokenizer.ggml.{theirs}_token_id")) is not None
        }
        self._reorder = metadata(self._reader, "general.architecture") == "llama"
        self._tensors = {}
        for tensor in self._reader.tensors:
            name = _hf_name(tensor.name)
            if name is None:
                raise WeightsError(
                    f"{self.place}: tensor {tensor.name!r} is not part of a decoder that is computed "
                    "here; use another file"
                )
            self._tensors[name] = tensor

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors:
            raise missing(self, name)
        return tuple(int(n) for n in reversed(self._tensors[name].shape))

    def dtype(self, name: str) -> str:
        kind = self._tensors[name].tensor_type.name
        return {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")

    def read(self, name: str, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        tensor = self._tensors[name]
        which = np.arange(rows.start, rows.stop)
        if self._reorder and (heads := self._heads(name)):
            which = _stored_rows(which, self.shape(name)[0] // heads)
            data = tensor.data[which]
        else:
            data = tensor.data[rows.start : rows.stop]
        return self._floats(tensor, data)[(slice(None), columns)[: data.ndim]]

    def _heads(self, name: str) -> int:
        if ".self_attn.q_proj." in name:
            return self.config.num_heads
        return self.config.num_kv_heads if ".self_attn.k_proj." in name else 0

    def _floats(self, tensor: Any, data: np.ndarray) -> np.ndarray:
        kind = tensor.tensor_type.name
        if kind in ("F16", "F32", "F64"):
            return data
        if kind == "BF16":
            import ml_dtypes

            return np.ascontiguousarray(data).view(ml_dtypes.bfloat16)
        from gguf.quants import dequantize

        try:
            return dequantize(np.ascontiguousarray(data), tensor.tensor_type)
        except NotImplementedError as error:
            raise WeightsError(
                f"{self.place}: tensor {tensor.name!r} is quantised as {kind}, which cannot be read; use "
                "a file in F16, Q8_0 or Q4_1"
            ) from error


def _stored_rows(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Where llama.cpp keeps these rows of a query or key projection."""
    head, within = np.divmod(rows, head_dim)
    half, pair = np.divmod(within, head_dim // 2)
    return head * head_dim + 2 * pair + half


def _hf_name(name: str) -> str | None:
    if name in _TENSORS:
        return _TENSORS[name]
    block, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    part, _, kind = rest.rpartition(".")
    if block != "blk" or not number.isdigit() or part not in _LAYER_TENSORS:
        return None
    return f"model.layers.{number}.{_LAYER_TENSORS[part]}.{kind}"


def _config(reader: Any, place: str) -> DecoderConfig:
    architecture = metadata(reader, "general.architecture")
    if architecture not in FAMILIES:
        raise WeightsError(
            f"{place}: architecture {architecture!r} is not supported; one of {', '.join(FAMILIES)}"
        )

    def value(key: str, default: Any = None) -> Any:
        found = metadata(reader, f"{architecture}.{key}", default)
        if found is None:
            raise WeightsError(f"{place}: metadata {architecture}.{key} is missing; fetch it again")
        return found

    scaling = metadata(reader, f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise WeightsError(
            f"{place}: rope scaling {scaling!r} is asked for; only the default is computed"
        )
    shapes = {tensor.name: tensor.shape for tensor in reader.tensors}
    if "token_embd.weight" not in shapes:
        raise WeightsError(f"{place}: tensor 'token_embd.weight' is missing; fetch it again")
    heads, width = value("attention.head_count"), value("embedding_length")
    return DecoderConfig(
        vocab_size=int(shapes["token_embd.weight"][1]),
        d_model=width,
        num_layers=value("block_count"),
        num_heads=heads,
        num_kv_heads=value("attention.head_count_kv", heads),
        head_dim=value("attention.key_length", width // heads),
        d_ff=value("feed_forward_length"),
        rope_theta=float(value("rope.freq_base", 10_000.0)),
        # stored as float32; the short decimal is what the model was made with
        rms_norm_eps=float(str(np.float32(value("attention.layer_norm_rms_epsilon")))),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
        tie_embeddings="output.weight" not in shapes,
        max_position=value("context_length"),
    )
