"""Decoder shapes, read from and written to Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAMILIES = ("qwen2", "qwen3", "llama")


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies stretched for contexts longer than the first training's.

    Attributes:
      kind: "linear" (all frequencies divided by factor) or "llama3" (long wavelengths divided by
        factor, short ones kept, those between blended).
      factor: at least 1.
      low_freq_factor, high_freq_factor, original_max_position: of "llama3": wavelengths above
        original / low are long, below original / high short.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192

    def to_hf(self) -> dict[str, Any]:
        """The entries of config.json's rope settings."""
        out: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "llama3":
            out |= {
                "low_freq_factor": self.low_freq_factor,
                "high_freq_factor": self.high_freq_factor,
                "original_max_position_embeddings": self.original_max_position,
            }
        return out


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a pre-norm decoder with rotary positions, grouped-query attention and SwiGLU.

    Attributes:
      vocab_size: rows of the embedding (V).
      d_model: width of the residual stream (D).
      num_layers: decoder layers (L).
      num_heads, num_kv_heads: query heads (H) and key/value heads (K); K divides H.
      head_dim: width of one head, even.
      d_ff: hidden width of the feed-forward block (F).
      rope_theta: base of the rotary frequencies.
      rope_scaling: how they are stretched; None: not.
      rms_norm_eps: added to the mean square in every RMSNorm.
      qkv_bias: biases on the query, key and value projections (Qwen2).
      qk_norm: RMSNorm over each query's and key's head_dim (Qwen3).
      tie_embeddings: the output head is the embedding, transposed.
      max_position: longest context that the weights were made for, in tokens.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    tie_embeddings: bool = False
    max_position: int = 32_768
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; choose a divisor"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions need it even")

    @classmethod
    def from_hf(cls, source: Mapping[str, Any]) -> DecoderConfig:
        """Reads a config.json mapping of the qwen2, qwen3 or llama family.

        Raises:
          ValueError: another family, or a feature that this decoder does not compute.
        """
        family = source.get("model_type")
        if family not in FAMILIES:
            raise ValueError(
                f"config.json: model_type {family!r} is not supported; one of {', '.join(FAMILIES)}"
            )
        missing = [
            key
            for key in (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
            )
            if key not in source
        ]
        if missing:
            raise ValueError(f"config.json: {', '.join(missing)} missing; download it again")
        if source.get("hidden_act", "silu") != "silu":
            raise ValueError(
                f"config.json: hidden_act {source['hidden_act']!r}; only silu is computed"
            )
        if source.get("use_sliding_window") and any(
            kind != "full_attention" for kind in source.get("layer_types") or ["sliding_attention"]
        ):
            raise ValueError(
                "config.json: sliding-window attention is not computed; use another model"
            )
        if source.get("mlp_bias") or (family != "qwen2" and source.get("attention_bias")):
            raise ValueError("config.json: attention_bias/mlp_bias of this family is not computed")
        heads = source["num_attention_heads"]
        return cls(
            vocab_size=source["vocab_size"],
            d_model=source["hidden_size"],
            num_layers=source["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=source.get("num_key_value_heads") or heads,
            head_dim=source.get("head_dim") or source["hidden_size"] // heads,
            d_ff=source["intermediate_size"],
            rope_theta=_rope_theta(source),
            rms_norm_eps=float(source.get("rms_norm_eps", 1e-6)),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            tie_embeddings=bool(source.get("tie_word_embeddings", False)),
            max_position=source.get("max_position_embeddings", 32_768),
            rope_scaling=_rope_scaling(source),
        )

    @property
    def family(self) -> str:
        """The Hugging Face model_type with these biases and norms.

        Raises:
          ValueError: no family has both.
        """
        if self.qkv_bias and self.qk_norm:
            raise ValueError("qkv_bias with qk_norm has no Hugging Face family; switch one off")
        return "qwen2" if self.qkv_bias else "qwen3" if self.qk_norm else "llama"

    def to_hf(self) -> dict[str, Any]:
        """A config.json mapping that transformers and `from_hf` read (both rope spellings)."""
        architecture = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[self.family]
        scaling = self.rope_scaling.to_hf() if self.rope_scaling else {"rope_type": "default"}
        out = {
            "architectures": [f"{architecture}ForCausalLM"],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.d_ff,
            "rope_theta": self.rope_theta,
            "rope_parameters": {**scaling, "rope_theta": self.rope_theta},
            "rms_norm_eps": self.rms_norm_eps,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_embeddings,
            "max_position_embeddings": self.max_position,
            "torch_dtype": "float32",
        }
        return out | ({"rope_scaling": scaling} if self.rope_scaling else {})

    def parameter_count(self) -> int:
        """Number of base weights."""
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        layer = self.d_model * (2 * query + 2 * key) + 3 * self.d_model * self.d_ff
        layer += 2 * self.d_model
        layer += (query + 2 * key if self.qkv_bias else 0) + (2 * self.head_dim * self.qk_norm)
        tables = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return self.num_layers * layer + tables + self.d_model


def _rope_theta(source: Mapping[str, Any]) -> float:
    """rope_theta from either spelling."""
    parameters = source.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", source.get("rope_theta", 10_000.0)))


def _rope_scaling(source: Mapping[str, Any]) -> RopeScaling | None:
    """From either spelling; a kind that is not computed raises."""
    for key in ("rope_parameters", "rope_scaling"):
        given = source.get(key) or {}
        kind = given.get("rope_type", given.get("type", "default"))
        if kind == "default":
            continue
        if kind not in ("linear", "llama3"):
            raise ValueError(
                f"config.json: {key} asks for rope type {kind!r}; computed are default, linear, llama3"
            )
        names = {"factor": "factor"}
        if kind == "llama3":
            names |= {name: name for name in ("low_freq_factor", "high_freq_factor")}
            names["original_max_position"] = "original_max_position_embeddings"
        missing = sorted(set(names.values()) - set(given))
        if missing:
            raise ValueError(f"config.json: {key} of type {kind!r} lacks {', '.join(missing)}")
        return RopeScaling(kind, **{ours: given[theirs] for ours, theirs in names.items()})
    return None


def embedded(vocab_size: int = 512) -> DecoderConfig:
    """The embedded model: 0.62 M parameters at 512 pieces."""
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=128,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        d_ff=352,
        tie_embeddings=True,
        max_position=1024,
    )


def qwen2_5_0_5b() -> DecoderConfig:
    """Qwen2.5-0.5B (and -Instruct)."""
    return DecoderConfig(151_936, 896, 24, 14, 2, 64, 4864, rope_theta=1e6, tie_embeddings=True)


def qwen2_5_7b() -> DecoderConfig:
    """Qwen2.5-7B-Instruct."""
    return DecoderConfig(152_064, 3584, 28, 28, 4, 128, 18_944, rope_theta=1e6)


def qwen2_5_32b() -> DecoderConfig:
    """Qwen2.5-32B-Instruct."""
    return DecoderConfig(152_064, 5120, 64, 40, 8, 128, 27_648, rope_theta=1e6, rms_norm_eps=1e-6)


def smollm2_135m() -> DecoderConfig:
    """SmolLM2-135M-Instruct."""
    return DecoderConfig(
        vocab_size=49_152,
        d_model=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        d_ff=1536,
        rope_theta=100_000.0,
        rms_norm_eps=1e-5,
        qkv_bias=False,
        tie_embeddings=True,
        max_position=8192,
    )
