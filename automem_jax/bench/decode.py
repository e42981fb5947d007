"""Replays recorded requests against the engine, and the same ones by transformers' `generate`.

Episodes run side by side; an episode's next request is asked when its last one was answered, as a
rollout does. Decoding is greedy, so that both sides do the same work: an answer ends with the model's end
of turn or with `new_tokens`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from automem_jax.bench.recorded import RecordedEpisode
from automem_jax.bench.train import peak_memory_gib
from automem_jax.files import write_json
from automem_jax.models.decoder import Decoder
from automem_jax.models.weights import save_model
from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import Generated, GenerationRequest, random_key
from automem_jax.text import chat
from automem_jax.text.messages import SamplingSettings
from automem_jax.text.tokenizer import Tokenizer

TORCH_SCRIPT = Path(__file__).with_name("decode_torch.py")
TORCH_BATCHES = (1, 8)


@dataclass(frozen=True)
class Prompts:
    """Token ids of every episode's prompts, in order. `dropped`: those beyond the context."""

    episodes: tuple[tuple[tuple[int, ...], ...], ...]
    keys: tuple[tuple[tuple[int, ...], ...], ...]
    dropped: int

    @property
    def lengths(self) -> list[int]:
        return [len(prompt) for episode in self.episodes for prompt in episode]


def tokenise(
    episodes: Sequence[RecordedEpisode],
    tokenizer: Tokenizer,
    longest: int,
    per_episode: int = 0,
) -> Prompts:
    """The prompts that fit into `longest` tokens, the first `per_episode` of each (0: all).

    Raises:
      ValueError: none fits.
    """
    kept, keys, dropped = [], [], 0
    for episode in episodes:
        asked = episode.requests[: per_episode or None]
        prompts = [tuple(chat.render(r.messages, tokenizer)) for r in asked]
        fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= longest]
        dropped += len(prompts) - len(fitting)
        if fitting:
            kept.append(tuple(prompts[i] for i in fitting))
            keys.append(tuple(random_key(0, asked[i].key) for i in fitting))
    if not kept:
        raise ValueError(
            f"no recorded request fits into {longest} tokens; raise model.max_context or lower "
            "--new_tokens"
        )
    return Prompts(tuple(kept), tuple(keys), dropped)


def replay(
    engine: Engine, prompts: Prompts, concurrent: int, new_tokens: int
) -> tuple[dict[str, Any], dict[tuple[int, int], Generated]]:
    """Answers every request, `concurrent` episodes at a time.

    Returns:
      Figures, and the answer to each (episode, number of the request).
    """
    sampling = SamplingSettings(temperature=0.0, max_tokens=new_tokens)
    waiting = list(range(len(prompts.episodes)))[::-1]
    asked_at: dict[tuple[int, int], float] = {}
    first_token_s: dict[tuple[int, int], float] = {}
    answered_s: list[float] = []
    answers: dict[tuple[int, int], Generated] = {}

    def ask(episode: int, number: int) -> None:
        if number == len(prompts.episodes[episode]):
            if not waiting:
                return
            episode, number = waiting.pop(), 0
        prompt, key = prompts.episodes[episode][number], prompts.keys[episode][number]
        asked_at[episode, number] = time.perf_counter()
        engine.submit(GenerationRequest((episode, number), prompt, sampling, key))

    before, started = engine.counters(), time.perf_counter()
    for _ in range(min(concurrent, len(waiting))):
        ask(waiting.pop(), 0)
    while not engine.idle():
        events = engine.step()
        now = time.perf_counter()
        for event in events:
            if event.token_ids:
                first_token_s.setdefault(event.id, now - asked_at[event.id])
            if event.finished is not None:
                answers[event.id] = event.finished
                answered_s.append(now - asked_at[event.id])
                ask(event.id[0], event.id[1] + 1)
    seconds = time.perf_counter() - started
    after = engine.counters()
    spent = {
        name: after[name] - before[name]
        for name in ("requests", "prompt_tokens", "reused_tokens", "generated_tokens", "programs")
    }
    waits = list(first_token_s.values())
    figures = {
        "concurrent": concurrent,
        "requests": spent["requests"],
        "seconds": seconds,
        "requests_per_s": spent["requests"] / seconds,
        "generated_tokens_per_s": spent["generated_tokens"] / seconds,
        "prompt_tokens_per_s": spent["prompt_tokens"] / seconds,
        "generated_tokens": spent["generated_tokens"],
        "prompt_tokens": spent["prompt_tokens"],
        "prefix_reuse": spent["reused_tokens"] / max(1, spent["prompt_tokens"]),
        "time_to_first_token_p50_s": float(np.percentile(waits, 50)),
        "time_to_first_token_p95_s": float(np.percentile(waits, 95)),
        "answer_p50_s": float(np.percentile(answered_s, 50)),
        "answer_p95_s": float(np.percentile(answered_s, 95)),
        "compiled_meanwhile": spent["programs"],
        "cache_blocks": after["blocks_total"],
        "peak_memory_gib": peak_memory_gib(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }
    return figures, answers


def warm_up(engine: Engine, prompts: Prompts, concurrent: int, new_tokens: int) -> None:
    """Compiles what a replay needs: the longest requests, alone and together; the cache is empty after."""
    sampling = SamplingSettings(temperature=0.0, max_tokens=new_tokens)
    longest = sorted((p for e in prompts.episodes for p in e), key=len)[-concurrent:]
    shortest = sorted((p for e in prompts.episodes for p in e), key=len)[:concurrent]
    batches = [shortest[:1], shortest, longest[-1:], longest]
    for batch in batches:
        engine.generate([GenerationRequest(("warm", i), p, sampling) for i, p in enumerate(batch)])
    engine.clear_cache()


def measure_torch(
    python: str,
    model: Decoder,
    eos_id: int,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    threads: int,
    directory: Path | None = None,
) -> dict[str, Any]:
    """The same requests by transformers' `generate` in another process, at each of TORCH_BATCHES.

    Args:
      directory: the weights as a Hugging Face checkpoint; None: they are written out for it.

    Returns:
      {"batch_1": figures, ...} with the `tokens` of each answer, or {"why": ...} where torch or
      transformers are not there.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if directory is None:
            directory = folder / "model"
            save_model(model, directory)
        np.savez(
            folder / "prompts.npz",
            lengths=np.array([len(p) for p in prompts]),
            ids=np.concatenate([np.asarray(p, np.int64) for p in prompts]),
        )
        job = {"model": str(directory.resolve()), "eos_id": eos_id, "new_tokens": new_tokens}
        write_json(folder / "job.json", job | {"threads": threads, "batches": list(TORCH_BATCHES)})
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(
                [python or sys.executable, str(TORCH_SCRIPT), str(folder)],
                capture_output=True,
                text=True,
                env=environment,
            )
        except OSError as error:
            return {"why": str(error)}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"why": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def compare(
    ours: dict[str, Any], theirs: dict[str, Any], answers: Sequence[Generated]
) -> dict[str, Any]:
    """What theirs comes to beside ours: times faster, and the share of equal answers.

    Args:
      answers: ours, to the requests that they were given, in order.
    """
    speeds = {}
    for batch in TORCH_BATCHES:
        row = theirs.get(f"batch_{batch}")
        if row is None:
            continue
        tokens = row.pop("tokens")
        same = sum(list(a.token_ids) == t for a, t in zip(answers, tokens, strict=True))
        row["same_answers"] = same / len(tokens)
        row["ours_is_times_faster"] = ours["requests_per_s"] / row["requests_per_s"]
        speeds[batch] = row["requests_per_s"]
    if speeds:
        best = max(speeds, key=speeds.get)
        theirs["better_batch"] = best
        theirs["ours_is_times_faster"] = ours["requests_per_s"] / speeds[best]
    return theirs
