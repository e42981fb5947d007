"""Requests answered by transformers' `generate`; run by `automem bench decode` in a process of its own.

Usage: python decode_torch.py FOLDER, with job.json and the checkpoint model/ in it. Needs torch and
transformers and nothing else. Prints a line of JSON when it is ready; then, for each line of JSON with
batch and prompts on its input, one with the seconds that it took and the answers' tokens. Greedy, with
the KV cache, batches padded on the left, in the given order.
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, use_safetensors=True
    ).eval()
    eos_id, new_tokens = job["eos_id"], job["new_tokens"]

    @torch.inference_mode()
    def answer(batch):
        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), eos_id, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, prompt in enumerate(batch):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
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

    answer([[eos_id] * 16])  # what the first call sets up
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts, size = asked["prompts"], asked["batch"]
        tokens, started = [], time.perf_counter()
        for start in range(0, len(prompts), size):
            tokens += answer(prompts[start : start + size])
        print(json.dumps({"seconds": time.perf_counter() - started, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
