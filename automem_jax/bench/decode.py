"""Replays recorded requests against the engine.

Episodes run side by side; an episode's next request is asked when its last one was answered, as a
rollout does. Decoding is greedy: an answer ends with the model's end of turn or with `new_tokens`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from automem_jax.bench.recorded import RecordedEpisode
from automem_jax.bench.train import peak_memory_gib
from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import Generated, GenerationRequest, random_key
from automem_jax.text import chat
from automem_jax.text.messages import SamplingSettings
from automem_jax.text.tokenizer import Tokenizer

Place = tuple[int, int]  # of a request: episode, number within it


@dataclass(frozen=True)
class Prompts:
    """Token ids of every episode's prompts, in order. `dropped`: those beyond the context."""

    episodes: tuple[tuple[tuple[int, ...], ...], ...]
    keys: tuple[tuple[tuple[int, ...], ...], ...]
    dropped: int

    @property
    def lengths(self) -> list[int]:
        return [len(prompt) for episode in self.episodes for prompt in episode]

    def __getitem__(self, place: Place) -> tuple[int, ...]:
        return self.episodes[place[0]][place[1]]

    def windows(self, count: int, size: int) -> list[list[Place]]:
        """About `count` requests in groups of up to `size`, spread over the replay; each group is of
        different episodes at about the same time, as they would be asked together."""
        places = ((e, n) for e, prompts in enumerate(self.episodes) for n in range(len(prompts)))
        order = sorted(places, key=lambda place: (place[1], place[0]))
        groups = -(-min(count, len(order)) // size)
        starts = [group * len(order) // groups for group in range(groups)] + [len(order)]
        left, found = min(count, len(order)), []
        for start, end in zip(starts, starts[1:], strict=False):
            found.append(order[start : min(end, start + size, start + left)])
            left -= len(found[-1])
        return found


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
    engine: Engine,
    prompts: Prompts,
    concurrent: int,
    new_tokens: int,
    pauses: Sequence[Callable[[], None]] = (),
) -> tuple[dict[str, Any], dict[Place, Generated]]:
    """Answers every request, `concurrent` episodes at a time.

    Args:
      pauses: called once each, spread over the replay, while its clock stands still: what is measured
        there meets the same load of the machine.

    Returns:
      Figures, and the answer to each (episode, number of the request).
    """
    sampling = SamplingSettings(temperature=0.0, max_tokens=new_tokens)
    waiting = list(range(len(prompts.episodes)))[::-1]
    asked_at: dict[Place, float] = {}
    first_token_s: dict[Place, float] = {}
    answered_s: list[float] = []
    answers: dict[Place, Generated] = {}
    total, paused_s, paused = len(prompts.lengths), 0.0, 0

    def now_s() -> float:
        return time.perf_counter() - paused_s

    def ask(episode: int, number: int) -> None:
        if number == len(prompts.episodes[episode]):
            if not waiting:
                return
            episode, number = waiting.pop(), 0
        prompt, key = prompts.episodes[episode][number], prompts.keys[episode][number]
        asked_at[episode, number] = now_s()
        engine.submit(GenerationRequest((episode, number), prompt, sampling, key))

    before, started = engine.counters(), now_s()
    for _ in range(min(concurrent, len(waiting))):
        ask(waiting.pop(), 0)
    while not engine.idle():
        events = engine.step()
        now = now_s()
        for event in events:
            if event.token_ids:
                first_token_s.setdefault(event.id, now - asked_at[event.id])
            if event.finished is not None:
                answers[event.id] = event.finished
                answered_s.append(now - asked_at[event.id])
                ask(event.id[0], event.id[1] + 1)
        while paused < len(pauses) and len(answers) >= total * (paused + 0.5) / len(pauses):
            begun = time.perf_counter()
            pauses[paused]()
            paused_s, paused = paused_s + time.perf_counter() - begun, paused + 1
    seconds = now_s() - started
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
