import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from toy import WordTokenizer, example, tiny_decoder, toy_config, toy_examples, write_examples

from automem_jax.models.lora import load_adapter, with_adapters
from automem_jax.models.weights import base_hash
from automem_jax.training.checkpoint import CheckpointError
from automem_jax.training.loop import TrainingError, train


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple]:
    return [(m["step"], m["loss"], m["grad_norm"], m["learning_rate"]) for m in metrics(folder)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    path = write_examples(folder / "e.jsonl", toy_examples())
    seen = []
    result = train(
        toy_config(),
        tiny_decoder(),
        WordTokenizer(),
        path,
        folder / "run",
        lambda step, total, figures: seen.append((step, total)),
    )
    assert seen == [(s, result.steps) for s in range(1, result.steps + 1)]
    return folder, result


def test_run_learns_and_leaves_adapter_metrics_and_record(unbroken):
    folder, result = unbroken
    rows = metrics(folder / "run")
    assert [r["step"] for r in rows] == list(range(1, result.steps + 1))
    assert rows[-1]["loss"] == result.final_loss < rows[0]["loss"] - 0.1
    assert {"loss", "learning_rate", "grad_norm", "supervised_tokens", "tokens_per_s"} < set(
        rows[0]
    )
    done = json.loads((folder / "run" / "done.json").read_text())
    assert done["base_hash_before"] == done["base_hash_after"] == base_hash(tiny_decoder())
    adapter = load_adapter(result.adapter, base_hash(tiny_decoder()))
    assert (adapter.rank, adapter.alpha, adapter.targets) == (2, 4.0, "all_linear")
    specialist = with_adapters(tiny_decoder(), [adapter])
    tokens = jnp.arange(6)[None]
    one = specialist(tokens, adapter_ids=jnp.array([1]))
    base = specialist(tokens, adapter_ids=jnp.array([0]))
    assert not np.allclose(one, base)
    np.testing.assert_array_equal(base, tiny_decoder()(tokens))


def test_finished_run_is_not_done_again(unbroken):
    folder, result = unbroken
    before = os.stat(result.adapter).st_mtime_ns

    def fail(*_):
        raise AssertionError("a step was taken")

    arguments = tiny_decoder(), WordTokenizer(), folder / "e.jsonl", folder / "run"
    assert train(toy_config(), *arguments, fail) == result
    assert os.stat(result.adapter).st_mtime_ns == before
    with pytest.raises(CheckpointError, match="configuration"):
        train(toy_config(learning_rate=1e-3), *arguments)
    with pytest.raises(CheckpointError, match="base"):
        train(toy_config(), tiny_decoder(seed=5), *arguments[1:])


def test_killed_run_resumes_to_the_unbroken_losses(unbroken, tmp_path):
    folder, result = unbroken
    path = write_examples(tmp_path / "e.jsonl", toy_examples())
    here = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, str(here / "killed_run.py"), str(tmp_path), "5"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = tmp_path / "run"
    assert len(losses(run)) == 5 and not (run / "done.json").exists()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # a line torn by the kill

    steps_taken = []
    resumed = train(
        toy_config(),
        tiny_decoder(),
        WordTokenizer(),
        path,
        run,
        lambda step, total, figures: steps_taken.append(step),
    )
    assert steps_taken[0] in (3, 5)  # went on from a checkpoint, step 4's or the one before
    assert losses(run) == losses(folder / "run")
    assert load_adapter(resumed.adapter).hash() == load_adapter(result.adapter).hash()


def test_interrupted_run_refuses_another_base_and_other_examples(tmp_path):
    path = write_examples(tmp_path / "e.jsonl", toy_examples())

    def stop(step, total, figures):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy_config(), tiny_decoder(), WordTokenizer(), path, tmp_path / "run", stop)
    with pytest.raises(CheckpointError, match="made with base"):
        train(toy_config(), tiny_decoder(seed=5), WordTokenizer(), path, tmp_path / "run")
    write_examples(path, [*toy_examples(), example("x", "y")])
    with pytest.raises(CheckpointError, match="made with examples"):
        train(toy_config(), tiny_decoder(), WordTokenizer(), path, tmp_path / "run")


def test_non_finite_loss_stops_and_names_the_step(tmp_path):
    path = write_examples(tmp_path / "e.jsonl", toy_examples())
    model = tiny_decoder()
    model.final_norm.scale.set_value(jnp.full_like(model.final_norm.scale[...], jnp.nan))
    with pytest.raises(TrainingError, match="step 1: loss is nan"):
        train(toy_config(), model, WordTokenizer(), path, tmp_path / "run")
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_the_callers_model_is_left_alone(unbroken):
    folder, _ = unbroken
    model = tiny_decoder()
    before = jax.tree.map(np.asarray, nnx.state(model))
    out = folder / "again"
    train(toy_config(epochs=1), model, WordTokenizer(), folder / "e.jsonl", out)
    assert model.adapter_count == 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(model)))
