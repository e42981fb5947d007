"""Run by test_engine.py with 8 fake devices: meshes of data x tensor answer as one device does."""

import sys

import jax
import numpy as np
from models.test_lora import random_adapter
from models.tiny import tiny_decoder
from sampling.letters import LetterTokenizer

from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import GenerationRequest
from automem_jax.sharding import make_mesh
from automem_jax.text.messages import SamplingSettings

SHAPE = {"num_kv_heads": 2, "num_heads": 8, "d_model": 64, "d_ff": 128}


def answers(mesh):
    model = tiny_decoder(**SHAPE)
    adapters = {"s": random_adapter(model, 1)}
    sizes = {"slots": 4, "max_context": 96, "block_tokens": 32}
    engine = Engine(model, LetterTokenizer(), **sizes, mesh=mesh, adapters=adapters)
    rng = np.random.default_rng(0)
    prompt = rng.integers(5, 42, 70).tolist()
    settings = SamplingSettings(max_tokens=6)
    requests = [
        GenerationRequest(i, prompt[: 70 - i], settings, (3, i, 0, 0, 0), "s" if i % 2 else None)
        for i in range(6)
    ]
    return engine.generate(requests)


def main():
    assert len(jax.devices()) == 8
    alone = answers(None)
    for shape in ({"data": 4, "tensor": 2}, {"data": 2, "tensor": 4}):
        for one, other in zip(alone, answers(make_mesh(shape)), strict=True):
            assert one.token_ids == other.token_ids, shape
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    print("equal")


if __name__ == "__main__":
    sys.exit(main())
