"""Run by test_sharding.py with 8 fake devices: three mesh axes give the loss of one device."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from models.tiny import tiny_decoder

from automem_jax.models import lora, quantize
from automem_jax.models.decoder import BaseWeight
from automem_jax.models.settings import Settings
from automem_jax.sharding import make_mesh, shard_model

ROWS, LENGTH = 4, 64
MIX = {"fsdp": 2, "tensor": 2, "sequence": 2}  # others: tests/training/mesh_runs.py


def batch():
    rng = np.random.default_rng(0)
    ends = np.zeros((ROWS, LENGTH), np.int32)
    ends[:, :20], ends[:, 20:35], ends[:, 35:60] = 60, 35, 60  # a trunk and two branches
    positions = np.concatenate([np.arange(35), 20 + np.arange(25), np.zeros(4)])
    return {
        "tokens": rng.integers(0, 64, (ROWS, LENGTH)),
        "positions": np.broadcast_to(positions, (ROWS, LENGTH)).astype(np.int32),
        "ends": ends,
    }


def loss_and_gradients(settings, mesh_shape, quantization=None):
    """Loss, and adapter gradients by path, with dropout on."""
    model = tiny_decoder(num_kv_heads=2, num_heads=8, d_model=64, d_ff=128)
    if quantization:
        quantize.quantize_base(model, quantization)
    lora.add_adapters(model, 1, 8, 16.0, "all_linear", nnx.Rngs(params=0), dropout=0.1)
    adapter = lora.get_adapter(model, 1)
    lora.set_adapter(model, 1, {k: v + 0.05 for k, v in adapter.weights.items()})
    model.settings = settings
    mesh = make_mesh(mesh_shape, jax.devices() if mesh_shape else jax.devices()[:1])
    shard_model(model, mesh)
    graphdef, adapters, base = nnx.split(model, nnx.LoRAParam, BaseWeight)
    given = batch()

    def loss(adapters):
        whole = nnx.merge(graphdef, adapters, base, copy=True)
        hidden, _ = whole.hidden(
            given["tokens"],
            given["positions"],
            ends=given["ends"],
            adapter_ids=jnp.ones(ROWS, jnp.int32),
            dropout_key=jax.random.key(7),
            with_cache=False,
        )
        scores = jax.nn.log_softmax(whole.unembed(hidden[:, :59]))
        return -jnp.mean(jnp.take_along_axis(scores, given["tokens"][:, 1:60, None], -1))

    with jax.set_mesh(mesh):
        value, grads = jax.jit(jax.value_and_grad(loss))(adapters)
    return float(value), {path: np.asarray(g[...]) for path, g in nnx.to_flat_state(grads)}


def compare(name, ours, reference):
    np.testing.assert_allclose(ours[0], reference[0], atol=1e-5, rtol=0, err_msg=name)
    for path, value in ours[1].items():
        np.testing.assert_allclose(value, reference[1][path], atol=2e-5, err_msg=f"{name} {path}")


def main():
    assert len(jax.devices()) == 8
    plain = Settings(attention="plain")
    # The feed-forward block, too, runs in chunks.
    chunked = Settings(attention="chunked", attention_chunk=8, remat="full", mlp_chunk=32)
    reference = loss_and_gradients(plain, {})
    assert reference[0] > 1.0
    compare("chunked", loss_and_gradients(chunked, MIX), reference)
    both = (loss_and_gradients(plain, mix, "nf4") for mix in (MIX, {}))
    compare("plain, nf4", *both)
    print("equal")


if __name__ == "__main__":
    sys.exit(main())
