"""The training job of `automem bench train` by transformers + PEFT; run by it in a process of its own.

Usage: python train_torch.py FOLDER, with config.json (model shape), items.npz and job.json in it. Prints
JSON. Needs torch, transformers and peft and nothing else, so it runs in an environment without JAX.

An item a row, padded to the row's length, as fine-tuning scripts commonly do; also measured without
padding, which a batch of one row allows.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

TARGETS = {
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "qv": ["q_proj", "v_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
}
TARGETS["all_linear"] = TARGETS["attention"] + TARGETS["mlp"]


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    lora = LoraConfig(
        r=job["rank"],
        lora_alpha=job["alpha"],
        lora_dropout=job["dropout"],
        target_modules=TARGETS[job["targets"]],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model.float(), lora).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job["learning_rate"], betas=(0.9, 0.95))

    def step(ids, weights, pad_to):
        """One optimizer step on one row; returns (tokens, supervised tokens)."""
        length, pad = len(ids), max(0, pad_to - len(ids))
        labels = np.where(weights > 0, ids, -100)
        row = {
            "input_ids": torch.tensor(np.pad(ids, (0, pad))[None], dtype=torch.long),
            "attention_mask": torch.tensor(np.pad(np.ones(length, int), (0, pad))[None]),
            "labels": torch.tensor(
                np.pad(labels, (0, pad), constant_values=-100)[None], dtype=torch.long
            ),
        }
        model(**row).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return length, int((labels[1:] >= 0).sum())

    stored = np.load(folder / "items.npz")
    ends = np.cumsum(stored["lengths"])[:-1]
    items = list(zip(np.split(stored["ids"], ends), np.split(stored["weights"], ends), strict=True))
    found = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for name, pad_to in (("padded", job["row_tokens"]), ("unpadded", 0)):
        step(*items[0], pad_to)
        tokens, supervised, started = 0, 0, time.perf_counter()
        for index in range(job["rows"]):
            counted = step(*items[index % len(items)], pad_to)
            tokens, supervised = tokens + counted[0], supervised + counted[1]
        seconds = time.perf_counter() - started
        found[name] = {
            "rows": job["rows"],
            "seconds": seconds,
            "item_tokens_per_s": tokens / seconds,
            "supervised_tokens_per_s": supervised / seconds,
            "row_tokens_per_s": (job["rows"] * pad_to if pad_to else tokens) / seconds,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
