"""`automem envs check` and `automem bench env` as their users meet them."""

import json
import os
import socket
import subprocess
import sys

import pytest

from automem_jax.config import EnvConfig
from automem_jax.envs import selftest
from automem_jax.testing import ToyEnv


def run(*command):
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )


def automem(*arguments):
    return run("-m", "automem_jax", *arguments)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["envs"], ["automem envs check"]),
        (["envs", "--episodes=3"], ["automem envs check"]),
        (["envs", "chek"], ["'chek'", "'check'"]),
        (["bench", "evn"], ["'evn'", "'env'"]),
        (["envs", "check", "--env=nethak"], ["'nethak'", "'nethack'"]),
        (["envs", "check", "--episodes=0"], ["--episodes=0", "from 1"]),
        (["bench", "env", "--batch=16,x"], ["--batch=16,x"]),
        (["bench", "env", "--seconds=-1"], ["--seconds=-1"]),
    ],
)
def test_wrong_words_and_numbers_are_one_line(arguments, parts):
    result = automem(*arguments)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and all(part in lines[0] for part in parts), result.stderr


def test_help_names_the_word_and_its_flags():
    for arguments in (["envs", "--help"], ["envs", "check", "--help"]):
        result = automem(*arguments)
        assert result.returncode == 0
        assert "automem envs check" in result.stdout and "--episodes" in result.stdout
        assert "--batch" not in result.stdout


def test_check_prints_a_table_and_ends_well_where_all_is_equal(tmp_path):
    result = automem(
        "envs", "check", "--episodes=3", "--steps=6", "--workers=2", f"--workdir={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.rstrip().endswith("yes")]
    assert [line.split("   ")[0].strip() for line in lines] == [
        "in process",
        "other slots",
        "2 workers",
    ]


class Moody(ToyEnv):
    """ToyEnv that says something else at one step of one seed, once it is played again."""

    played = 0

    def _percept(self, seed, position, step, *rest):
        percept = super()._percept(seed, position, step, *rest)
        if (seed, step) == (4, 2):
            Moody.played += 1
            percept.fields["mood"] = Moody.played
        return percept


def test_check_finds_the_first_difference():
    rows = selftest.check(
        EnvConfig(name="toy", slots=3), range(3, 6), 8, (), make=lambda config: Moody(config.slots)
    )
    assert rows[0].differences == ()
    assert rows[1].differences == (selftest.Difference(4, 2, "fields.mood"),)


def test_check_fails_where_anything_differs():
    code = (
        "from automem_jax.cli import main\n"
        "from automem_jax.envs import selftest\n"
        "place = selftest.Difference(42, 7, 'long_text')\n"
        "row = selftest.Row('minihack', 'T', '2 workers', 8, 80, 0, 'abc', 1.0, (place,))\n"
        "selftest.check = lambda *_: [row]\n"
        "main.run(['automem', 'envs', 'check'])\n"
    )
    result = run("-c", code)
    assert result.returncode == 1
    assert result.stderr.strip() == ("minihack T, 2 workers: seed 42, step 7 differs in long_text")


def test_bench_writes_its_figures(tmp_path):
    result = automem(
        *("bench", "env", "--batch=2,3", "--workers=0,1", "--seconds=0.1", f"--workdir={tmp_path}")
    )
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "bench" / "env.json").read_text()
    found = json.loads(text)
    assert [(row["batch"], row["workers"]) for row in found["speed"]] == [
        (batch, workers) for batch in (2, 3) for workers in (0, 1)
    ]
    for row in found["speed"]:
        assert row["raw_steps_per_s"] > 0 and row["reset_ms"] > 0 and row["start_s"] > 0
        assert row["steps_per_s"] >= row["steps_per_s_with_resets"] > 0
    assert found["machine"]["cores"] >= 1 and found["machine"]["packages"]["nle"]
    assert "env" in found["balrog"][0]
    assert socket.gethostname() not in text and str(tmp_path) not in text
    assert "agent-visible steps/s" in result.stdout
