"""The training job of `automem bench train` by transformers + PEFT, in a process of its own.

Usage: python train_torch.py FOLDER, with config.json (model shape), items.npz and job.json in it. Says
"ready", then takes a line of JSON a step: {"items": [indices], "pad_to": 0}, and answers with {"seconds",
"tokens", "supervised"}. Needs torch, transformers and peft and nothing else, so it runs in
an environment without JAX.

A step is one optimizer step over these items. Each is a row of its own length (`pad_to` 0; no token of
padding is computed, which is the fastest on a CPU), or padded as fine-tuning scripts commonly do;
gradients of the items are accumulated.
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

    def gradients(ids, weights, pad_to):
        """Adds one item's gradients; returns how many tokens of it are supervised."""
        length, pad = len(ids), max(0, pad_to - len(ids))
        labels = np.where(weights > 0, ids, -100)
        row = {
            "input_ids": np.pad(ids, (0, pad)),
            "attention_mask": np.pad(np.ones(length, int), (0, pad)),
            "labels": np.pad(labels, (0, pad), constant_values=-100),
        }
        if not pad:
            del row["attention_mask"]  # lets attention take its causal path
        row = {name: torch.tensor(value[None], dtype=torch.long) for name, value in row.items()}
        model(**row, use_cache=False).loss.backward()
        return int((labels[1:] >= 0).sum())

    stored = np.load(folder / "items.npz")
    ends = np.cumsum(stored["lengths"])[:-1]
    items = list(zip(np.split(stored["ids"], ends), np.split(stored["weights"], ends), strict=True))
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        chosen = [items[index] for index in asked["items"]]
        started = time.perf_counter()
        supervised = sum(gradients(*item, asked["pad_to"]) for item in chosen)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
        tokens = sum(len(ids) for ids, _ in chosen)
        answer = {"seconds": seconds, "tokens": tokens, "supervised": supervised}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
