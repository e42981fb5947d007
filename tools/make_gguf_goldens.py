"""Writes tests/data/tiny_llama.gguf with the logits transformers gives it, and those of SmolLM2.

Needs torch, transformers and gguf. tiny_llama_golden.npz: tokens and float32 logits. With a second
argument, SmolLM2's GGUF file, also smollm2_golden.npz: the file's SHA-256, tokens, and the logits of some
vocabulary columns (all would be large).

    python tools/make_gguf_goldens.py tests/data [SmolLM2-135M-Instruct.Q4_1.gguf]
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

SHAPE = {"vocab": 64, "width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 96}


def write_tiny(path: str | Path, seed: int = 0) -> None:
    """A random llama in llama.cpp's own layout: rows of q and k reordered, every kind of storage."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    s, source = SHAPE, np.random.default_rng(seed)
    head = s["width"] // s["heads"]
    writer = GGUFWriter(str(path), "llama")
    writer.add_vocab_size(s["vocab"])
    writer.add_context_length(512)
    writer.add_embedding_length(s["width"])
    writer.add_block_count(s["layers"])
    writer.add_feed_forward_length(s["ffn"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv_heads"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(50_000.0)
    writer.add_layer_norm_rms_eps(1e-5)

    def add(name: str, shape: tuple[int, ...], kind: str = "F32") -> None:
        value = source.standard_normal(shape).astype(np.float32) * 0.2 + (len(shape) == 1)
        stored = GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(value, stored), raw_dtype=stored)

    kv = s["kv_heads"] * head
    add("token_embd.weight", (s["vocab"], s["width"]), "Q8_0")
    for layer in range(s["layers"]):
        kinds = ("Q4_1", "Q8_0", "F16", "F32") if layer else ("F16", "Q4_1", "Q4_1", "Q8_0")
        place = f"blk.{layer}"
        add(f"{place}.attn_norm.weight", (s["width"],))
        add(f"{place}.ffn_norm.weight", (s["width"],))
        add(f"{place}.attn_q.weight", (s["width"], s["width"]), kinds[0])
        add(f"{place}.attn_k.weight", (kv, s["width"]), kinds[1])
        add(f"{place}.attn_v.weight", (kv, s["width"]), kinds[2])
        add(f"{place}.attn_output.weight", (s["width"], s["width"]), kinds[3])
        add(f"{place}.ffn_gate.weight", (s["ffn"], s["width"]), "Q4_1")
        add(f"{place}.ffn_up.weight", (s["ffn"], s["width"]), "Q8_0")
        add(f"{place}.ffn_down.weight", (s["width"], s["ffn"]), "F16")
    add("output_norm.weight", (s["width"],))
    add("output.weight", (s["vocab"], s["width"]), "F16")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reference_logits(path: str | Path, tokens: np.ndarray) -> np.ndarray:
    """float32 logits of transformers' dequantised model."""
    import torch
    import transformers

    path = Path(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        return model(torch.tensor(tokens).long()).logits.float().numpy()


def main(directory: str, smollm2: str = "") -> None:
    source = np.random.default_rng(1)
    tiny = Path(directory) / "tiny_llama.gguf"
    write_tiny(tiny)
    tokens = source.integers(0, SHAPE["vocab"], (2, 20))
    found = reference_logits(tiny, tokens)
    np.savez_compressed(Path(directory) / "tiny_llama_golden.npz", tokens=tokens, logits=found)
    if smollm2:
        tokens = source.integers(17, 49_152, (1, 64))
        columns = np.sort(source.choice(49_152, 256, replace=False))
        found = reference_logits(smollm2, tokens)[:, ::4, columns]
        np.savez_compressed(
            Path(directory) / "smollm2_golden.npz",
            sha256=hashlib.sha256(Path(smollm2).read_bytes()).hexdigest(),
            tokens=tokens,
            columns=columns,
            logits=found,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
