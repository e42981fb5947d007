import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import PartitionSpec

from automem_jax.sharding import LogicalRules, ShardingError, make_mesh

ON_EIGHT_DEVICES = """
import jax, numpy as np
from flax import nnx
from automem_jax.models import lora
from automem_jax.models.decoder import logits
from automem_jax.sharding import make_mesh, shard_model
from models.tiny import tiny_decoder

assert len(jax.devices()) == 8
tokens = np.random.default_rng(0).integers(0, 64, (8, 10))
ids = np.arange(8) % 2
for shape in ({"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "sequence": 2}):
    model = tiny_decoder()
    lora.add_adapters(model, 1, 4, 8.0, "all_linear", nnx.Rngs(params=0))
    adapter = lora.get_adapter(model, 1)
    lora.set_adapter(model, 1, {k: v + 0.1 for k, v in adapter.weights.items()})
    one = np.asarray(logits(model, tokens, adapter_ids=ids))
    mesh = make_mesh(shape)
    shard_model(model, mesh)
    kernel = model.layers.up_proj.kernel.get_value()
    parts = shape.get("fsdp", 1) * shape.get("tensor", 1)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size
    with jax.set_mesh(mesh):
        many = np.asarray(logits(model, tokens, adapter_ids=ids))
    np.testing.assert_allclose(many, one, atol=1e-4)
print("equal")
"""


def test_eight_devices_give_the_logits_of_one():
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("equal")


def test_colliding_axes_and_unknown_names_are_errors():
    rules = LogicalRules()
    assert rules.spec(("layers", "embed", "mlp")) == PartitionSpec(None, "fsdp", "tensor")
    with pytest.raises(ShardingError, match="'batch' -> 'fsdp' collides with 'embed'"):
        rules.spec(("batch", "embed"))
    with pytest.raises(ShardingError, match="'head'"):
        rules.spec(("head",))


def test_a_mesh_must_fit_the_devices():
    with pytest.raises(ShardingError, match="needs 24 devices"):
        make_mesh({"fsdp": 8, "tensor": 3})
    with pytest.raises(ShardingError, match="'expert'"):
        make_mesh({"expert": 1})
