"""Two real processes on loopback, each feeding its own rows, against one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from toy import toy_examples, write_examples

from automem_jax.distributed import DistributedError, settings
from automem_jax.models.lora import load_adapter

HERE = Path(__file__).parent
PATH = os.pathsep.join([str(HERE), *filter(None, sys.path)])
ENVIRONMENT = os.environ | {"PYTHONPATH": PATH, "XLA_FLAGS": os.environ["AUTOMEM_QUICK_COMPILE"]}


def start(folder: Path, out: Path, *more: object) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "process_run.py"), str(folder), str(out), *map(str, more)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, **pipe)


def start_pair(folder: Path, out: Path, *second: object) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(folder, out, coordinator, 2, 0),
        start(folder, out, coordinator, 2, 1, *second),
    ]


def finish(*processes: subprocess.Popen) -> list[dict]:
    found = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        found.append(json.loads(output.splitlines()[-1]))
    return found


def losses(out: Path) -> list[list[float]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [[row["step"], row["loss"], row["grad_norm"]] for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_examples(folder / "e.jsonl", toy_examples(40))
    alone = finish(start(folder, folder / "one"))
    together = finish(*start_pair(folder, folder / "two"))
    return folder, alone, together


def test_two_processes_end_as_one_does(runs):
    folder, alone, together = runs
    assert [f["of"] for f in alone] == [1] and [f["process"] for f in together] == [0, 1]
    one, two = losses(folder / "one"), losses(folder / "two")
    assert len(one) == alone[0]["steps"] >= 6
    np.testing.assert_allclose(one, two, rtol=1e-5)
    adapters = [load_adapter(folder / name / "adapter.safetensors") for name in ("one", "two")]
    for name, value in adapters[0].weights.items():
        np.testing.assert_allclose(value, adapters[1].weights[name], atol=1e-5)


def test_kill_9_of_one_ends_the_other_and_a_rerun_ends_as_the_unbroken_run(runs):
    folder, _, _ = runs
    out = folder / "killed"
    first, second = start_pair(folder, out, 5, int(signal.SIGKILL))
    second.communicate(timeout=300)
    assert second.returncode == -signal.SIGKILL
    started = time.monotonic()
    _, errors = first.communicate(timeout=120)
    assert first.returncode != 0 and errors.strip()
    assert time.monotonic() - started < 60
    assert not (out / "done.json").exists() and len(losses(out)) >= 4
    finish(*start_pair(folder, out))
    assert losses(out) == losses(folder / "two")


def test_sigterm_to_one_saves_and_stops_both_with_their_own_status(runs):
    folder, _, _ = runs
    out = folder / "preempted"
    pair = start_pair(folder, out, 1, int(signal.SIGTERM))
    for process in pair:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 75, errors
        assert "stopped by SIGTERM after step" in errors
    stopped = len(losses(out))
    assert (out / "checkpoints" / str(stopped)).is_dir()
    finish(*start_pair(folder, out))
    assert losses(out) == losses(folder / "two")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", "2", "0"), "--coordinator .* missing"),
        (("a:1", "2", ""), "--process_id .* missing"),
        (("a:1", "2", "2"), "number '2' of '2'"),
        (("a:1", "x", "0"), "number '0' of 'x'"),
        (("a", "2", "0"), "'a' is not HOST:PORT"),
    ],
)
def test_unclear_settings_are_errors(given, message):
    with pytest.raises(DistributedError, match=message):
        settings(*given, environment={})


def test_settings_come_from_flags_or_the_environment():
    assert settings(environment={}) is None
    environment = {
        "JAX_COORDINATOR_ADDRESS": "host:1",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
    }
    assert settings(environment=environment) == ("host:1", 4, 3)
    assert settings(process_id="2", environment=environment) == ("host:1", 4, 2)
    only = {"JAX_COORDINATOR_ADDRESS": "host:1"}
    assert settings(environment=only) is None  # a cluster that JAX knows says the rest
