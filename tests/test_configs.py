"""Every shipped config loads, is valid, and holds the recipe that it names."""

import importlib.util
import sys
from pathlib import Path

import pytest

from automem_jax.config import ConfigError, check, from_config_dict, seed_sets

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "recorded")
# rank, alpha, targets, epochs, batch, examples, episodes to train on, evaluated episodes, step cap
PAPER = {
    "qwen2_5_32b_crafter": (256, 512, "attention", 4, 32, 1597, 100, 10, 2_000),
    "qwen2_5_32b_minihack": (128, 256, "all_linear", 3, 16, 444, 50, 5, 100),
    "qwen2_5_32b_nethack": (256, 512, "all_linear", 1, 32, 800, 50, 5, 100_000),
}


def module(name):
    spec = importlib.util.spec_from_file_location(f"configs_{name}", CONFIGS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def load(name, *arguments):
    return from_config_dict(module(name).get_config(*arguments))


@pytest.mark.parametrize("name", NAMES)
def test_config_is_valid_and_says_what_it_needs(name):
    config = load(name)
    check(config)
    assert config.name == name
    for word in ("Command:", "Hardware:", "Duration:"):
        assert word in module(name).__doc__


@pytest.mark.parametrize("name", PAPER)
def test_recipes_are_the_papers(name):
    config = load(name)
    training, lora = config.training, config.training.lora
    found = (lora.rank, lora.alpha, lora.targets, training.epochs, training.batch_rows)
    found += (config.selection.max_examples, config.seeds.collect, config.seeds.heldout)
    assert (*found, config.env.max_steps) == PAPER[name]
    assert (training.learning_rate, training.schedule, training.warmup) == (5e-5, "cosine", 0.05)
    assert training.row_tokens == 16_384
    assert config.sampling.temperature == 1.0 and config.sampling.max_tokens == 4_096
    heldout = seed_sets(config.seeds)["heldout"]
    assert heldout.start == 42 and heldout.stop <= 52


def test_minihack_takes_each_of_the_papers_tasks():
    tasks = module("qwen2_5_32b_minihack").TASKS
    assert len(tasks) == 8
    names = {load("qwen2_5_32b_minihack", task).env.task for task in tasks}
    assert "MiniHack-CorridorBattle-Dark-v0" in names and len(names) == 8
    with pytest.raises(ValueError, match="Boxoban-Hard"):
        load("qwen2_5_32b_minihack", "Boxoban")


def test_quantization_is_checked():
    import dataclasses

    config = load("qwen2_5_32b_crafter")
    wrong = dataclasses.replace(config.model, quantization="int3")
    with pytest.raises(ConfigError, match="model.quantization"):
        check(dataclasses.replace(config, model=wrong))


def test_no_config_imports_jax():
    import subprocess

    code = "import runpy, sys; [runpy.run_path(p)['get_config']() for p in sys.argv[1:]]; "
    code += "assert 'jax' not in sys.modules"
    paths = [str(CONFIGS / f"{name}.py") for name in NAMES]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, cwd=CONFIGS.parent)


def test_a_recorded_config_is_the_one_that_was_written(tmp_path):
    import dataclasses
    import json

    written = dataclasses.replace(load("qwen2_5_32b_crafter"), seed=7)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(written)))
    assert load("recorded", str(path)) == written
