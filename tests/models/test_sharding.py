import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec

from automem_jax.sharding import LogicalRules, ShardingError, activation_spec, make_mesh


def test_eight_devices_give_the_loss_and_gradients_of_one():
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 "
        + os.environ["AUTOMEM_QUICK_COMPILE"],
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    done = subprocess.run(
        [sys.executable, str(tests / "models" / "eight_devices.py")],
        env=environment,
        capture_output=True,
        text=True,
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
    with pytest.raises(ShardingError, match="'fsdp': 0"):
        make_mesh({"fsdp": 0})


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "fake"


def test_slices_divide_the_axis_that_is_named():
    devices = [FakeDevice(i, slice_index=i % 2) for i in range(8)]
    mesh = make_mesh({"data": 2, "fsdp": 4}, devices, slices={"data": 2})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
    owners = [[d.slice_index for d in row] for row in mesh.devices[:, :, 0, 0]]
    assert sorted(map(tuple, owners)) == [(0,) * 4, (1,) * 4]
    with pytest.raises(ShardingError, match="'fsdp' of size 4 cannot be divided over 3"):
        make_mesh({"data": 2, "fsdp": 4}, devices, slices={"fsdp": 3})
    with pytest.raises(ShardingError, match="does not fit the devices"):
        make_mesh({"data": 4, "fsdp": 2}, devices, slices={"data": 4})


def test_hosts_stand_for_slices_where_devices_have_none():
    devices = [FakeDevice(i, slice_index=0, process_index=i // 4) for i in range(8)]
    mesh = make_mesh({"fsdp": 8}, devices, slices={"fsdp": 2})
    owners = [d.process_index for d in mesh.devices.flat]
    assert owners in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)


def test_an_axis_that_does_not_divide_lies_on_fewer_devices():
    mesh = jax.sharding.AbstractMesh((2, 3), ("sequence", "tensor"))
    with jax.sharding.use_abstract_mesh(mesh):
        for size, target in ((12, ("sequence", "tensor")), (4, "sequence"), (3, None)):
            assert activation_spec(("residual_time",), (size,)) == PartitionSpec(target)
