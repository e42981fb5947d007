"""Doubles for training tests: a word tokenizer, a tiny decoder, a file of examples."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flax import nnx

from automem_jax.config import LoraConfig, TrainingConfig
from automem_jax.models.config import DecoderConfig
from automem_jax.models.decoder import Decoder
from automem_jax.text.chat import FORMATS


class WordTokenizer:
    """A token a word; ids are handed out as words appear, so `words` reads a row back."""

    chat_format = "roles"
    vocab_size = 64
    pad_id = 0

    def __init__(self):
        self._ids = {"<pad>": 0}
        for name in FORMATS["roles"].controls:
            self._ids[name] = len(self._ids)
        self.eos_id = self.control("<|end|>")

    def encode(self, text: str) -> list[int]:
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str):
        ids, offsets = [], []
        for match in re.finditer(r"\S+", text):
            ids.append(self._ids.setdefault(match[0], len(self._ids)))
            offsets.append(match.span())
        return ids, offsets

    def decode(self, ids) -> str:
        names = {i: word for word, i in self._ids.items()}
        return " ".join(names[int(i)] for i in ids)

    def control(self, name: str) -> int:
        return self._ids[name]


def tiny_decoder(seed: int = 0) -> Decoder:
    config = DecoderConfig(
        vocab_size=64,
        d_model=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        d_ff=24,
        tie_embeddings=True,
    )
    return Decoder(config, rngs=nnx.Rngs(params=seed))


def example(prompt: str, answer: str, supervised=None, earlier=(), history=()) -> dict:
    """One example; `earlier` are (user, assistant) pairs before the prompt."""
    messages = [{"role": "system", "content": "play"}]
    for said, answered in earlier:
        messages += [
            {"role": "user", "content": said},
            {"role": "assistant", "content": answered},
        ]
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    spans = supervised if supervised is not None else [(0, len(answer))]
    last = len(messages) - 1
    return {
        "messages": messages,
        "supervised": [{"message": last, "start": s, "end": e} for s, e in spans],
        "history": list(history),
        "weight": 1.0,
        "phase": "log",
    }


def write_examples(path: Path, examples) -> Path:
    path.write_text("".join(json.dumps(e) + "\n" for e in examples))
    return path


def toy_examples(count: int = 12) -> list[dict]:
    colours = ["red", "blue", "green"]
    return [
        example(f"see {colours[i % 3]} door {'far ' * (i % 4)}now", f"note {colours[i % 3]} door")
        for i in range(count)
    ]


def toy_config(**changes) -> TrainingConfig:
    settings = {
        "lora": LoraConfig(rank=2, alpha=4.0),
        "epochs": 3,
        "learning_rate": 3e-2,
        "row_tokens": 32,
        "batch_rows": 2,
        "checkpoint_every": 2,
    }
    return TrainingConfig(**(settings | changes))


# What the runs on several devices change of toy_config.
MESH_RUN = {"epochs": 2, "batch_rows": 8, "share_prefix": 6, "row_tokens": 24}
