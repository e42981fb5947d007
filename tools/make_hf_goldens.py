"""Writes tests/data/hf_golden_*.npz: tiny random checkpoints and the logits transformers gives them.

Needs torch and transformers. Each file holds config.json as text, the weights as float16 (exact: the
weights are rounded to it first), tokens, attention mask, position ids and float32 logits.

    python tools/make_hf_goldens.py tests/data
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

SHAPE = dict(
    vocab_size=48,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=16_384,
    rms_norm_eps=1e-5,
    rope_theta=50_000.0,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
FAMILIES = {
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(tie_word_embeddings=False, head_dim=16),
    "llama": dict(tie_word_embeddings=False),
    "smollm2": dict(tie_word_embeddings=True),
    "llama3": dict(
        tie_word_embeddings=False,
        rope_scaling=dict(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=2048,  # one period lies in the blend
        ),
    ),
    "linear": dict(tie_word_embeddings=False, rope_scaling=dict(rope_type="linear", factor=4.0)),
}
ARCHITECTURES = {"qwen2": "Qwen2", "qwen3": "Qwen3"}  # others: Llama


def reference(family: str, seed: int = 0):
    """A random transformers model of the family, its weights exact in float16."""
    import torch
    import transformers

    architecture = ARCHITECTURES.get(family, "Llama")
    config = getattr(transformers, f"{architecture}Config")(**SHAPE, **FAMILIES[family])
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn_like(weight) * (0.3 if weight.ndim == 1 else 0.15)
            weight.copy_((weight + noise).half().float())
    return model


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Two rows, the second left-padded by five; the positions of the first end at 8,191."""
    tokens = np.random.default_rng(seed).integers(0, SHAPE["vocab_size"], (2, 16))
    mask = np.ones((2, 16), np.int64)
    mask[1, :5] = 0
    positions = np.stack([np.arange(8_176, 8_192), np.maximum(np.arange(16) - 5, 0)])
    return {"tokens": tokens, "mask": mask, "positions": positions}


def reference_logits(model, given: dict[str, np.ndarray]) -> np.ndarray:
    """float32 logits of transformers, [2, 16, V]; padded places hold whatever it computes there."""
    import torch

    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(given["tokens"]),
            attention_mask=torch.tensor(given["mask"]),
            position_ids=torch.tensor(given["positions"]),
        )
    return out.logits.numpy()


def main(directory: str) -> None:
    for family in FAMILIES:
        model, given = reference(family), inputs()
        weights = {
            f"weight:{name}": value.numpy().astype(np.float16)
            for name, value in model.state_dict().items()
            if not (name == "lm_head.weight" and model.config.tie_word_embeddings)
        }
        config = json.dumps(model.config.to_dict(), default=str)
        path = Path(directory) / f"hf_golden_{family}.npz"
        logits = reference_logits(model, given)
        np.savez_compressed(path, config=config, logits=logits, **given, **weights)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1])
