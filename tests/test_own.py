"""What configs/own/README.md promises: environments, templates, models and endpoints of a user's own."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from automem_jax import envs
from automem_jax.agent.template import load_template
from automem_jax.agent.validate import validate
from automem_jax.config import EnvConfig
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.traces.store import list_traces, read_trace
from automem_jax.viewer.frames import NoFrame, env_settings

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "configs" / "own"
CONFIG = "--config=configs/own/fork.py"
FORK = EnvConfig(name="fork_env:Fork", task="Fork", slots=3, max_steps=9)
SMALL = (
    "--config.seeds.search=8",
    "--config.seeds.gate=8",
    "--config.seeds.collect=24",
    "--config.seeds.heldout=4",
    "--config.architect.revisions=0",
    "--config.training.epochs=1",
    "--config.selection.min_credit=0.0",
    "--config.selection.min_standard_errors=0.0",
    "--config.selection.min_examples=1",
)


def automem(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "automem_jax", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def found(monkeypatch):
    """The example's module is found, as it is beside its config."""
    monkeypatch.syspath_prepend(str(OWN))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("own") / "run"
    return workdir, automem("pipeline", CONFIG, f"--workdir={workdir}", *SMALL)


def test_an_own_environment_goes_through_the_whole_loop(run):
    workdir, output = run
    results = json.loads((workdir / "results.json").read_text())
    assert (results["env"], results["task"]) == (FORK.name, FORK.task)
    assert [arm["n"] for arm in results["arms"].values()] == [4] * 4
    example = json.loads((workdir / "select/lineage/examples.jsonl").read_text().splitlines()[0])
    assert example["provenance"]["seed"] in range(30_000, 30_024)
    for kind in ("lineage", "random"):
        assert (workdir / "train" / kind / "adapter.safetensors").exists()
    assert (workdir / "report.html").exists() and "report: " in output
    trace = read_trace(list_traces(workdir / "traces" / "collect")[0])
    assert trace.header["env"] == FORK.name and trace.header["template"]["id"] == "fork_v0"


def test_an_own_model_is_a_directory_of_weights(run, tmp_path):
    """The embedded model written out and read back as somebody's own plays the same episodes."""
    automem("convert", "embedded", "--to=hf", tmp_path / "model")
    automem(
        "rollout",
        CONFIG,
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.source={tmp_path / 'model'}",
        "--seeds=collect",
        "--config.seeds.collect=2",
    )
    played = list_traces(tmp_path / "run" / "traces" / "collect")
    assert len(played) == 2
    for path in played:
        first = run[0] / "traces" / "collect" / "fork_v0" / path.name
        said = [
            [
                turn.completion.text
                for s in read_trace(p).steps
                for ph in s.phases
                for turn in ph.turns
            ]
            for p in (path, first)
        ]
        assert said[0] == said[1] and said[0]


def test_an_own_endpoint_plays_an_own_environment(tmp_path):
    def answer(received):
        prompt = received.body["messages"][-1]["content"]
        if "log:" in prompt:
            return Reply("<|DONE|>")
        at_fork = "northeast, east, and southeast" in prompt
        return Reply(f"<|ACTION|>{'northeast' if at_fork else 'east'}<|END|>")

    with LoopbackServer(answer) as server:
        automem(
            "rollout",
            CONFIG,
            f"--workdir={tmp_path}",
            "--seeds=heldout",
            "--config.seeds.heldout=4",
            "--config.policy.kind=openai",
            f"--config.policy.base_url={server.base_url}",
            "--config.policy.model=mine",
        )
    ends = [read_trace(path).end for path in list_traces(tmp_path / "traces")]
    assert {end["steps"] for end in ends} == {7}
    reasons = {end["end_reason"] for end in ends}
    assert reasons == {"task solved", "task failed"}


def test_an_own_template_is_valid():
    template = load_template(OWN / "fork_v0.py")
    assert validate(template) == []
    assert template.env == FORK.name


@pytest.mark.parametrize("workers", [0, 1])
def test_the_example_keeps_the_contract(found, workers):
    env = envs.make(dataclasses.replace(FORK, workers=workers))
    try:
        seen = env.reset([0, 1, 2], [5, 6, 5])
        assert seen[0] == seen[2] and seen[0].step == 0
        point = env.snapshot(0)
        seen = env.step({0: "east", 1: "dance"})
        assert (seen[1].action, seen[1].unknown_action) == ("east", "dance")
        assert env.restore(2, point).step == 0
        frame = env.frame(1)
        assert frame.dtype == np.uint8 and frame.ndim == 3
        for _ in range(8):
            seen = env.step({0: "north"})
        assert (seen[0].done, seen[0].end_reason) == (True, "step cap")
        assert "wall" in seen[0].fields["message"] and env.progression(0) == 0.0
        with pytest.raises(ValueError, match="call reset first|over"):
            env.step({0: "east"})
    finally:
        env.close()


@pytest.mark.parametrize(
    ("source", "name", "parts"),
    [
        ("", "none_such:Env", ("no module 'none_such'", "PYTHONPATH")),
        ("class Other: pass", "mine:Env", ("defines no class 'Env'", "Other")),
        ("class Env: pass", "mine:Env", ("lacks reset, step, frame", "TextEnv")),
        ("from fork_env import Fork", "mine:Fork", ("defines no class 'Fork'", "none")),
        ("import os\nsystem = os.system", "mine:system", ("defines no class 'system'",)),
        (
            "import fork_env\nclass Env(fork_env.Fork):\n    fallback_action = 'stay'",
            "mine:Env",
            ("fallback_action 'stay'", "northeast"),
        ),
    ],
)
def test_what_is_no_environment_is_refused(found, tmp_path, monkeypatch, source, name, parts):
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(ValueError) as error:
        envs.make(dataclasses.replace(FORK, name=name))
    for part in (*parts, "env.name"):
        assert part in str(error.value)


def test_traces_do_not_choose_what_is_imported():
    with pytest.raises(NoFrame, match="no environment that can be played again"):
        env_settings({"env": "fork_env:Fork", "task": "Fork"}, None)
