import json
import os
import re
import shutil
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
from automem_jax.training import checkpoint
from automem_jax.training.checkpoint import CheckpointError, Checkpoints
from automem_jax.training.loop import TrainingError, train
from automem_jax.training.preemption import EXIT_PREEMPTED, Preempted


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


def test_non_finite_loss_stops_and_names_step_and_items(tmp_path):
    examples = toy_examples()
    examples[6]["weight"] = 3e38  # its row's sum overflows
    path = write_examples(tmp_path / "e.jsonl", examples)
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as error:
        train(toy_config(row_tokens=16), tiny_decoder(), WordTokenizer(), path, run)
    found = re.search(r"step (\d+): loss is (inf|nan); its items: line 7; look", str(error.value))
    assert found and len(losses(run)) == int(found[1]) - 1
    assert not (run / "adapter.safetensors").exists()


def test_microbatches_and_loss_chunks_end_as_the_unbroken_run(unbroken, tmp_path):
    folder, _ = unbroken
    config = toy_config(microbatch_rows=1, loss_chunk=4)
    train(config, tiny_decoder(), WordTokenizer(), folder / "e.jsonl", tmp_path / "run")
    for one, other in zip(losses(folder / "run"), losses(tmp_path / "run"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def episodes(count):
    """Toy examples, three an episode."""
    return [
        e | {"provenance": {"trace": f"episode-{i // 3}.jsonl", "t": i}}
        for i, e in enumerate(toy_examples(count))
    ]


def test_heldout_loss_keeps_the_best_adapter_and_stops_early_however_often_it_is_stopped(tmp_path):
    path = write_examples(tmp_path / "e.jsonl", episodes(12))
    config = toy_config(
        epochs=30, learning_rate=1.0, heldout_share=0.25, patience=2, checkpoint_every=1
    )

    def run(name, report=None):
        arguments = tiny_decoder(), WordTokenizer(), path, tmp_path / name, report
        return train(config, *arguments)

    result = run("whole")
    rows = metrics(tmp_path / "whole")
    scores = [row["heldout_loss"] for row in rows]
    assert result.heldout_items == 3 and result.items == 9
    assert result.heldout_loss == min(scores) and scores.index(min(scores)) + 1 == result.best_step
    assert result.stopped_early and result.steps == result.best_step + 2 == len(rows)
    assert result.best_step < result.steps < 30

    def stop(step, total, figures):
        if step == result.best_step + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("broken", stop)
    resumed = run("broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert load_adapter(resumed.adapter).hash() == load_adapter(result.adapter).hash()


def test_sigterm_saves_the_step_and_says_so_with_its_own_status(unbroken, tmp_path):
    folder, result = unbroken
    arguments = tiny_decoder(), WordTokenizer(), folder / "e.jsonl", tmp_path / "run"
    before = signal.getsignal(signal.SIGTERM)

    def told(step, total, figures):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted) as stopped:
        train(toy_config(), *arguments, told)
    assert stopped.value.code == EXIT_PREEMPTED and stopped.value.step == 3
    assert signal.getsignal(signal.SIGTERM) == before
    taken = []
    resumed = train(toy_config(), *arguments, lambda step, *_: taken.append(step))
    assert taken[0] == 4
    assert losses(tmp_path / "run") == losses(folder / "run")
    assert load_adapter(resumed.adapter).hash() == load_adapter(result.adapter).hash()


def interrupted(examples, run, at=5):
    def stop(step, total, figures):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy_config(), tiny_decoder(), WordTokenizer(), examples, run, stop)


def damage(step_folder, how):
    files = [p for p in step_folder.rglob("*") if p.is_file() and p.stat().st_size]
    stored = [p for p in files if "/d/" in str(p)]
    assert stored
    if how == "torn":
        for file in stored:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "flipped":
        for file in stored:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 0x10
            file.write_bytes(content)
    elif how == "no record":
        (step_folder / "run" / "metadata").unlink()
    else:
        for file in files:
            file.write_bytes(b"")


@pytest.mark.parametrize("how", ["torn", "flipped", "no record", "empty"])
def test_a_corrupt_newest_checkpoint_is_skipped_with_a_word(unbroken, tmp_path, how, capsys):
    folder, _ = unbroken
    run = tmp_path / "run"
    interrupted(folder / "e.jsonl", run)
    damage(run / "checkpoints" / "4", how)
    taken = []
    arguments = tiny_decoder(), WordTokenizer(), folder / "e.jsonl", run
    train(toy_config(), *arguments, lambda step, *_: taken.append(step))
    assert taken[0] == 3
    assert "checkpoint of step 4 cannot be read" in capsys.readouterr().err
    assert losses(run) == losses(folder / "run")
    assert (run / "checkpoints_unreadable" / "4").is_dir()


def test_a_half_written_checkpoint_is_not_seen(unbroken, tmp_path):
    folder, _ = unbroken
    run = tmp_path / "run"
    interrupted(folder / "e.jsonl", run)
    half = run / "checkpoints" / "5.orbax-checkpoint-tmp-0"
    (half / "state").mkdir(parents=True)
    (half / "state" / "manifest.ocdbt").write_bytes(b"x")
    taken = []
    arguments = tiny_decoder(), WordTokenizer(), folder / "e.jsonl", run
    train(toy_config(), *arguments, lambda step, *_: taken.append(step))
    assert taken[0] == 5
    assert losses(run) == losses(folder / "run")


def test_no_room_for_a_checkpoint_is_a_clear_error_and_earlier_ones_stay(
    unbroken, tmp_path, monkeypatch
):
    folder, _ = unbroken
    run = tmp_path / "run"
    interrupted(folder / "e.jsonl", run, at=3)
    usage = shutil.disk_usage(run)
    full = usage._replace(free=100)
    arguments = tiny_decoder(), WordTokenizer(), folder / "e.jsonl", run
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "disk_usage", lambda _: full)
        with pytest.raises(CheckpointError, match="0.0 MiB are free; make room"):
            train(toy_config(), *arguments)
    taken = []
    train(toy_config(), *arguments, lambda step, *_: taken.append(step))
    assert taken[0] == 3
    assert losses(run) == losses(folder / "run")


def test_a_disk_that_fills_up_while_saving_is_a_clear_error_and_earlier_ones_stay(
    unbroken, tmp_path
):
    """The process may write no file larger than 2000 bytes, from step 3 on."""
    folder, _ = unbroken
    run = tmp_path / "run"
    interrupted(folder / "e.jsonl", run, at=3)
    here = Path(__file__).parent
    stopped = subprocess.run(
        [sys.executable, str(here / "full_disk.py"), str(folder / "e.jsonl"), str(run)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 1, stopped.stderr
    assert "CheckpointError" in stopped.stderr and "could not be written" in stopped.stderr
    saved = Checkpoints(run / "checkpoints", keep=2, identity={})
    assert saved.steps() == [2]
    saved.close()
    arguments = tiny_decoder(), WordTokenizer(), folder / "e.jsonl", run
    train(toy_config(), *arguments)
    assert losses(run) == losses(folder / "run")


def test_the_callers_model_is_left_alone(unbroken):
    folder, _ = unbroken
    model = tiny_decoder()
    before = jax.tree.map(np.asarray, nnx.state(model))
    out = folder / "again"
    train(toy_config(epochs=1), model, WordTokenizer(), folder / "e.jsonl", out)
    assert model.adapter_count == 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(model)))
