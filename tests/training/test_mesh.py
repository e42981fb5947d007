"""The real training loop on one device and on eight, for many meshes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy import MESH_RUN as ROWS
from toy import WordTokenizer, tiny_decoder, toy_config, toy_examples, write_examples

from automem_jax.training.loop import train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meshes")
    write_examples(folder / "e.jsonl", toy_examples(40))
    flags = f"--xla_force_host_platform_device_count=8 {os.environ['AUTOMEM_QUICK_COMPILE']}"
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(HERE / "mesh_runs.py"), str(folder)],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses and gradient norms of the same run on one device, and what prefixes saved."""
    folder = tmp_path_factory.mktemp("alone")
    path = write_examples(folder / "e.jsonl", toy_examples(40))
    result = train(toy_config(**ROWS), tiny_decoder(), WordTokenizer(), path, folder / "run")
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [[row["loss"], row["grad_norm"]] for row in rows], result.prefix_saving


def test_losses_are_those_of_one_device_for_every_mesh(runs, alone):
    losses, saving = alone
    assert len(losses) >= 2 and saving > 0.2
    for name, found in runs["meshes"].items():
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-5, err_msg=name)
        assert found["saving"] == saving


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("product", "needs 3 devices, 8 are there"),
        ("rest", "= 3 does not divide the 8 devices"),
        ("rows", "batch_rows 3 cannot be shared evenly by data x fsdp = 8"),
        ("tokens", "row_tokens 20 is not a multiple of training.mesh.sequence 8"),
    ],
)
def test_a_wrong_mesh_is_a_clear_error(runs, name, message):
    assert message in runs["errors"][name]


def test_a_checkpoint_is_restored_onto_another_mesh_and_device_count(runs, alone):
    assert runs["restored"] == [1]
    np.testing.assert_allclose(runs["moved"]["losses"], alone[0], rtol=1e-5)
