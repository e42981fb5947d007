"""Requests answered by transformers' `generate`; run by `automem bench decode` in a process of its own.

Usage: python decode_torch.py FOLDER, with prompts.npz and job.json in it. Prints JSON. Needs torch and
transformers and nothing else. Greedy, with the KV cache, batches padded on the left, in the given order.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    stored = np.load(folder / "prompts.npz")
    prompts = np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])
    eos_id, new_tokens = job["eos_id"], job["new_tokens"]

    @torch.inference_mode()
    def answer(batch):
        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), eos_id, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, prompt in enumerate(batch):
            ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
            mask[row, longest - len(prompt) :] = 1
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
        )[:, longest:].tolist()
        return [row[: row.index(eos_id) + 1] if eos_id in row else row for row in out]

    found = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    answer([prompts[0][:16]])  # what the first call sets up
    for size in job["batches"]:
        tokens, started = [], time.perf_counter()
        for start in range(0, len(prompts), size):
            tokens += answer(prompts[start : start + size])
        seconds = time.perf_counter() - started
        found[f"batch_{size}"] = {
            "requests": len(prompts),
            "seconds": seconds,
            "requests_per_s": len(prompts) / seconds,
            "generated_tokens_per_s": sum(map(len, tokens)) / seconds,
            "tokens": tokens,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
