"""The command as its users meet it: help, one-line errors, exit codes."""

import json
import os
import subprocess
import sys

import pytest

from automem_jax.cli.main import STAGES


def automem(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "automem_jax", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"},
    )


def assert_one_line_error(result, *parts):
    assert result.returncode in (1, 2), result
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]


def test_help_lists_every_stage():
    result = automem("--help")
    assert result.returncode == 0
    assert all(stage in result.stdout for stage in STAGES)


@pytest.mark.parametrize("stage", ["rollout", "pipeline"])
def test_a_stage_has_help_with_flags_and_defaults(stage):
    result = automem(stage, "--help")
    assert result.returncode == 0
    for flag in ("--config", "--workdir", "training.lora.rank=16"):
        assert flag in result.stdout
    assert ("--adapter" in result.stdout) == (stage == "rollout")


def test_an_unknown_stage_names_the_nearest():
    assert_one_line_error(automem("pipelin"), "'pipelin'", "'pipeline'")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--config.training.epoch=3"], ["--config.training.epoch", "'epochs'"]),
        (["--config.training.epochs=three"], ["three"]),
        (["--config.training.epochs=0"], ["training.epochs", "at least 1"]),
        (["--config.seeds.gate_start=100"], ["gate and heldout share seeds"]),
        (["--config=no/such/file.py"], ["no/such/file.py"]),
        (["--wrkdir=x"], ["wrkdir"]),
        (["stray"], ["'stray'"]),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, arguments, parts):
    result = automem("report", f"--workdir={tmp_path}", *arguments)
    assert_one_line_error(result, *parts)


@pytest.mark.parametrize("stage", ["report", "select", "train"])
def test_a_missing_work_directory_is_said(tmp_path, stage):
    result = automem(stage, f"--workdir={tmp_path / 'none'}")
    assert_one_line_error(result, "none", "does not exist")


def test_a_work_directory_of_another_experiment_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 5}))
    result = automem("select", f"--workdir={tmp_path}")
    assert_one_line_error(result, "was begun with", "another --workdir")


def test_stages_before_their_input_say_what_to_run(tmp_path):
    assert_one_line_error(automem("select", f"--workdir={tmp_path}"), "automem rollout")
    assert_one_line_error(automem("train", f"--workdir={tmp_path}"), "automem select")


def test_signals_left_out_or_alone_are_of_kind_signals(tmp_path):
    (tmp_path / "traces" / "collect" / "memento_v0").mkdir(parents=True)
    for flags, parts in (
        (["--only=lineage"], ["--only=lineage needs --kind=signals, got 'lineage'"]),
        (["--kind=signals", "--only=luck"], ["'luck' is none of lineage"]),
        (["--kind=signals", "--only=judge", "--without=idle"], ["give one"]),
    ):
        assert_one_line_error(automem("select", f"--workdir={tmp_path}", *flags), *parts)


def test_an_unknown_template_and_task_are_said(tmp_path):
    result = automem("rollout", f"--workdir={tmp_path}", "--template=memento_v9")
    assert_one_line_error(result, "memento_v9")
    result = automem(
        "rollout", f"--workdir={tmp_path / 'b'}", "--config.env.task=MiniHack-Memento-F3-v0"
    )
    assert_one_line_error(result, "MiniHack-Memento-F3-v0", "MiniHack-Memento-F2-v0")
