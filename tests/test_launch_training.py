"""The launch scripts train the embedded model: two local processes, stopped in between, end as one does.

SLURM's commands are stand-ins (launch_stand.py); everything else is real.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from launch_stand import Stand, finish, wait_until

from automem_jax.live.status import read_status
from automem_jax.models.lora import load_adapter

STEPS = 20
FLAGS = (
    "--config.training.epochs=10",
    "--config.training.row_tokens=64",
    "--config.training.batch_rows=4",
    "--config.training.checkpoint_every=8",
    "--config.training.lora.rank=4",
)
SLURM = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "here", "SLURM_NTASKS": "2"}


def write_examples(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for number in range(16):
            line = f"note door {number % 5} is {'open' if number % 3 else 'shut'}"
            example = {
                "messages": [
                    {"role": "user", "content": f"you see door {number % 5}"},
                    {"role": "assistant", "content": line},
                ],
                "supervised": [{"message": 1, "start": 0, "end": len(line)}],
                "history": [],
                "weight": 1.0,
                "phase": "log",
            }
            print(json.dumps(example), file=file)


def metrics(workdir: Path) -> list[list[float]]:
    path = workdir / "train" / "lineage" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [[row["step"], row["loss"], row["grad_norm"]] for row in rows]


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    return Stand(tmp_path_factory.mktemp("launch"), automem=f"{sys.executable} -m automem_jax")


def prepared(stand: Stand, name: str) -> tuple[Path, tuple[str, ...]]:
    """A work directory with examples, and the arguments that train in it."""
    workdir = stand.folder / name
    write_examples(workdir / "select" / "lineage" / "examples.jsonl")
    return workdir, ("train", f"--workdir={workdir}", *FLAGS)


@pytest.fixture(scope="module")
def alone(stand):
    """One process, unbroken."""
    workdir, arguments = prepared(stand, "alone")
    done = stand.run("gpu_node.sh", *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    assert [row[0] for row in metrics(workdir)] == list(range(1, STEPS + 1))
    return workdir


def assert_same_run(workdir: Path, alone: Path) -> None:
    (run,) = read_status(workdir)[
        "runs"
    ]  # the first process speaks for both, the last start for all
    assert (run["command"], run["state"]) == ("train", "done")
    assert run["tasks"][-1]["done"] == STEPS == run["tasks"][-1]["total"]
    np.testing.assert_allclose(metrics(workdir), metrics(alone), rtol=2e-5)
    one, two = (load_adapter(w / "train/lineage/adapter.safetensors") for w in (alone, workdir))
    for name, value in one.weights.items():
        np.testing.assert_allclose(value, two.weights[name], atol=2e-5)


def test_node_with_two_processes_goes_on_by_itself_after_one_was_stopped(stand, alone):
    workdir, arguments = prepared(stand, "node")
    node = stand.start("gpu_node.sh", *arguments, PROCESSES="2")
    try:
        wait_until(lambda: len(metrics(workdir)) >= 2 or node.poll() is not None, "step 2")
        os.kill(child_of(node.pid, "JAX_PROCESS_ID=1"), signal.SIGTERM)
    finally:
        done = finish(node)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "pre-empted (status 75); running again" in done.stderr
    assert "stopped by SIGTERM after step" in done.stdout
    assert_same_run(workdir, alone)


def test_slurm_job_is_stopped_goes_back_into_the_queue_and_ends_as_one_process_does(stand, alone):
    """First two nodes with a task each, told by the script; then one with two, found by JAX."""
    workdir, arguments = prepared(stand, "slurm")
    job = stand.start("slurm.sbatch", *arguments, **SLURM)
    try:
        wait_until(lambda: len(metrics(workdir)) >= 2 or job.poll() is not None, "step 2")
        job.send_signal(signal.SIGTERM)
    finally:
        done = finish(job)
    assert done.returncode == 75, done.stderr + done.stdout
    assert stand.read("requeued") == "requeue 17\n" and not stand.read("killed")
    assert 2 <= len(metrics(workdir)) < STEPS
    done = stand.run("slurm.sbatch", *arguments, **SLURM, SLURM_JOB_NUM_NODES="1")
    logs = [path.read_text() for path in sorted((workdir / "logs").iterdir())]
    assert done.returncode == 0 and len(logs) == 2, done.stderr + "".join(logs)
    assert_same_run(workdir, alone)


def child_of(parent: int, told: str) -> int:
    """The process below `parent` that has `told` in its environment."""
    for path in Path("/proc").iterdir():
        try:
            mine = f"PPid:\t{parent}\n" in (path / "status").read_text()
            if mine and told.encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"no process with {told}")
