"""What adapters cost: rows of the base and of adapters mixed in a batch, against the base alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from automem_jax.bench.decode import Prompts
from automem_jax.config import LoraConfig
from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import Adapter, add_adapters, get_adapter
from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import GenerationRequest
from automem_jax.text.messages import SamplingSettings


def random_adapters(model: Decoder, count: int, lora: LoraConfig) -> list[Adapter]:
    """Adapters of that shape with random weights in both factors: none of them is the base."""
    shaped = nnx.merge(*nnx.split(model), copy=True)
    add_adapters(shaped, 1, lora.rank, lora.alpha, lora.targets, nnx.Rngs(params=0))
    shape = get_adapter(shaped, 1)
    rng = np.random.default_rng(0)
    return [
        Adapter(
            {k: 0.01 * rng.standard_normal(v.shape, np.float32) for k, v in shape.weights.items()},
            shape.rank,
            shape.alpha,
            shape.targets,
        )
        for _ in range(count)
    ]


def measure(
    engine: Engine,
    prompts: Prompts,
    names: Sequence[str],
    concurrent: int,
    new_tokens: int,
    rounds: int = 4,
) -> dict[str, Any]:
    """Generated tokens/s of `concurrent` requests at once, of the base alone and of base and `names` in turn.

    The same prompts both ways, which take turns; their prefixes are computed before the clock starts.
    """
    sampling = SamplingSettings(temperature=1.0, max_tokens=new_tokens)
    ways = {"base": (None,), "mixed": (None, *names)}
    tokens, seconds = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)

    def ask(places, adapters, settings) -> int:
        requests = [
            GenerationRequest(
                ("mixed", *place),
                prompts[place],
                settings,
                prompts.keys[place[0]][place[1]],
                adapters[row % len(adapters)],
            )
            for row, place in enumerate(places)
        ]
        return sum(len(answer.token_ids) for answer in engine.generate(requests))

    for turn, places in enumerate(prompts.windows((rounds + 1) * concurrent, concurrent)):
        for way, adapters in ways.items():
            ask(places, adapters, SamplingSettings(temperature=1.0, max_tokens=1))
            started = time.perf_counter()
            drawn = ask(places, adapters, sampling)
            if turn:  # the first compiles
                seconds[way] += time.perf_counter() - started
                tokens[way] += drawn
    speeds = {way: tokens[way] / seconds[way] for way in ways}
    return {
        "adapters": len(names),
        "concurrent": concurrent,
        "tokens": tokens["mixed"],
        "base_tokens_per_s": speeds["base"],
        "mixed_tokens_per_s": speeds["mixed"],
        "mixed_share_of_base": speeds["mixed"] / speeds["base"],
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }
