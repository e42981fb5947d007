"""Logits equal those of transformers: stored goldens, and live where torch is installed."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from automem_jax.models import load_model, logits
from automem_jax.models.files import write_safetensors
from automem_jax.models.settings import Settings

DATA = Path(__file__).parents[1] / "data"
TOOLS = Path(__file__).parents[2] / "tools"
FAMILIES = ("qwen2", "qwen3", "llama", "smollm2", "llama3", "linear")


def load_checkpoint(directory, config, weights):
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(directory / "model.safetensors", weights, {"format": "pt"})
    return load_model(str(directory))[0]


def compare(model, tokens, mask, positions, expected):
    ours = np.asarray(logits(model, tokens, mask.astype(np.int32), positions))
    real = mask.astype(bool)
    assert np.abs(expected[real]).max() > 0.5
    np.testing.assert_allclose(ours[real], expected[real], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_stored_ones_of_transformers(family, tmp_path):
    golden = np.load(DATA / f"hf_golden_{family}.npz")
    weights = {
        name.removeprefix("weight:"): golden[name].astype(np.float32)
        for name in golden.files
        if name.startswith("weight:")
    }
    model = load_checkpoint(tmp_path, json.loads(str(golden["config"])), weights)
    assert model.config.rope_theta == 50_000.0
    compare(model, *(golden[k] for k in ("tokens", "mask", "positions", "logits")))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers_live(family, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    spec = importlib.util.spec_from_file_location("goldens", TOOLS / "make_hf_goldens.py")
    goldens = importlib.util.module_from_spec(spec)
    sys.modules["goldens"] = goldens
    spec.loader.exec_module(goldens)
    reference, given = goldens.reference(family, seed=1), goldens.inputs(seed=1)
    weights = {k: v.numpy() for k, v in reference.state_dict().items()}
    model = load_checkpoint(tmp_path, json.loads(reference.config.to_json_string()), weights)
    compare(model, **given, expected=goldens.reference_logits(reference, given))
    pack(model, reference, goldens)


def pack(model, reference, goldens):
    """Two rows of transformers in one packed row, by every kind of attention."""
    tokens = np.random.default_rng(2).integers(0, 48, (2, 40))
    alone = {"tokens": tokens, "mask": np.ones_like(tokens)}
    alone["positions"] = np.broadcast_to(np.arange(40), (2, 40))
    expected = goldens.reference_logits(reference, alone).reshape(1, 80, -1)
    segments = np.repeat([[1, 2]], 40, axis=1)
    for kind in ("plain", "chunked"):
        model.settings = Settings(attention=kind)
        ours = np.asarray(logits(model, tokens.reshape(1, 80), segments))
        np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)
