"""The whole loop through its command, small: unbroken against killed again and again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from automem_jax.live.status import read_status

SMALL = [
    "--config.seeds.search=16",
    "--config.seeds.gate=32",
    "--config.seeds.collect=48",
    "--config.seeds.heldout=16",
    "--config.architect.attempts=2",
    "--config.training.epochs=2",
    "--config.training.checkpoint_every=2",
    "--config.selection.min_credit=0.0",
    "--config.selection.min_standard_errors=0.0",
]


def start(workdir: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "automem_jax",
        "pipeline",
        f"--workdir={workdir}",
        *SMALL,
        *more,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )


def finish(workdir: Path, *more: str) -> str:
    process = start(workdir, *more)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def kill_when(workdir: Path, pattern: str, count: int) -> None:
    """Runs the pipeline until `count` files match `pattern`, then kills it without warning."""
    process = start(workdir)
    try:
        deadline = time.monotonic() + 300
        while len(list(workdir.glob(pattern))) < count:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert read_status(workdir)["state"] == "killed"


def outcome(workdir: Path) -> dict:
    """Everything of a work directory that must not depend on how often it was interrupted."""
    files = ["results.json", "evolve/ledger.jsonl", "evolve/best.json"]
    for kind in ("lineage", "random"):
        files += [f"select/{kind}/examples.jsonl", f"train/{kind}/adapter.safetensors"]
    found = {name: (workdir / name).read_bytes() for name in files}
    for path in sorted((workdir / "traces").rglob("*.jsonl")):
        name = str(path.relative_to(workdir))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for kind in ("lineage", "random"):
        lines = (workdir / "train" / kind / "metrics.jsonl").read_text().splitlines()
        found[f"{kind} losses"] = [
            (row["step"], row["loss"], row["grad_norm"]) for row in map(json.loads, lines)
        ]
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    return workdir, finish(workdir)


def test_the_pipeline_ends_with_table_results_and_report(unbroken):
    workdir, output = unbroken
    for arm in ("base_v0", "base_best", "specialist_best", "control_best"):
        assert arm in output
    assert "report.html" in output
    results = json.loads((workdir / "results.json").read_text())
    arms = results["arms"]
    assert [arm["n"] for arm in arms.values()] == [16] * 4
    for arm in arms.values():
        scores = [episode["progression"] for episode in arm["episodes"]]
        assert arm["mean"] == pytest.approx(sum(scores) / len(scores))
        assert sorted(e["seed"] for e in arm["episodes"]) == list(range(42, 58))
    assert (workdir / "report.html").stat().st_size > 10_000


def test_the_base_is_the_same_before_and_after(unbroken):
    workdir, _ = unbroken
    done = [
        json.loads((workdir / "train" / k / "done.json").read_text()) for k in ("lineage", "random")
    ]
    hashes = {row[key] for row in done for key in row if key.startswith("base_hash")}
    hashes.add(json.loads((workdir / "results.json").read_text())["base_hash"])
    assert len(hashes) == 1


def test_training_never_saw_gate_or_heldout_seeds(unbroken):
    workdir, _ = unbroken
    for kind in ("lineage", "random"):
        lines = (workdir / "select" / kind / "examples.jsonl").read_text().splitlines()
        seeds = {json.loads(line)["provenance"]["seed"] for line in lines}
        assert seeds <= set(range(30_000, 30_048))


def test_a_second_run_redoes_nothing(unbroken):
    workdir, _ = unbroken
    before = outcome(workdir)
    output = finish(workdir)
    again = [line for line in output.splitlines() if line.startswith(("rollout ", "train special"))]
    assert again == []  # neither an episode nor a training step was done again
    assert outcome(workdir) == before


def test_killed_at_every_stage_it_ends_the_same(unbroken, tmp_path):
    workdir = tmp_path / "run"
    for pattern, count in (
        ("traces/gate/memento_v0/*.partial", 1),
        ("traces/gate/*/*.jsonl", 40),
        ("traces/collect/*/*.jsonl", 5),
        ("train/lineage/metrics.jsonl", 1),
        ("traces/evaluate/specialist_best/*.partial", 1),
    ):
        kill_when(workdir, pattern, count)
    finish(workdir)
    assert outcome(workdir) == outcome(unbroken[0])


def test_ctrl_c_says_how_to_go_on(tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    while not list(workdir.glob("traces/gate/*/*.partial")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in output and "Traceback" not in output


@pytest.mark.parametrize("concurrent", [1, 4])
def test_episodes_are_the_same_however_many_run_at_once(unbroken, tmp_path, concurrent):
    result = subprocess.run(
        [sys.executable, "-m", "automem_jax", "rollout", "--seeds=search", f"--workdir={tmp_path}"]
        + SMALL
        + [f"--config.env.slots={concurrent}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    theirs = unbroken[0] / "traces" / "search" / "memento_v0"
    ours = tmp_path / "traces" / "search" / "memento_v0"
    names = sorted(p.name for p in ours.glob("*.jsonl"))
    assert len(names) == 16
    assert all((ours / n).read_bytes() == (theirs / n).read_bytes() for n in names)


def test_a_corrupt_trace_line_is_named(unbroken, tmp_path):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(unbroken[0], workdir)
    for stale in ("select", "train"):
        shutil.rmtree(workdir / stale)
    victim = sorted((workdir / "traces" / "collect").rglob("*.jsonl"))[0]
    lines = victim.read_bytes().split(b"\n")
    lines[1] = lines[1][:40]
    victim.write_bytes(b"\n".join(lines))
    result = subprocess.run(
        [sys.executable, "-m", "automem_jax", "select", f"--workdir={workdir}", *SMALL],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert f"{victim.name}:2" in result.stderr and "Traceback" not in result.stderr
