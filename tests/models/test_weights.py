import json

import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny import tiny_decoder

from automem_jax.models import files
from automem_jax.models.decoder import logits
from automem_jax.models.files import FileFormatError, write_safetensors
from automem_jax.models.weights import (
    WeightsError,
    base_hash,
    load_model,
    named_tensors,
    save_model,
)
from automem_jax.text.sources import EMBEDDED, resolve
from automem_jax.text.tokenizer import load_tokenizer

TOKENS = np.arange(10)[None]


@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": False}, {"qkv_bias": False, "qk_norm": True}]
)
def test_saved_and_loaded_is_the_same_model(tmp_path, changes):
    model = tiny_decoder(**changes)
    save_model(model, tmp_path)
    loaded, config = load_model(str(tmp_path))
    assert config == model.config
    assert base_hash(loaded) == base_hash(model)
    np.testing.assert_array_equal(logits(loaded, TOKENS), logits(model, TOKENS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("source", EMBEDDED)
def test_shipped_models_are_those_of_their_recipes(source):
    model, config = load_model(source)
    assert (
        base_hash(model) == json.loads((resolve(source) / "recipe.json").read_text())["base_hash"]
    )
    assert load_tokenizer(source).vocab_size == config.vocab_size


def test_hash_follows_values_not_dtype(tmp_path):
    save_model(tiny_decoder(), tmp_path)
    half, _ = load_model(str(tmp_path), "bfloat16")
    save_model(half, tmp_path / "half")
    as_float32, _ = load_model(str(tmp_path / "half"), "float32")
    assert as_float32.embed.get_value().dtype == jnp.float32
    assert base_hash(as_float32) == base_hash(half) != base_hash(tiny_decoder())
    assert base_hash(tiny_decoder(1)) != base_hash(tiny_decoder(0))


def shards(model, directory):
    tensors = {name: np.asarray(value) for name, value in named_tensors(model)}
    names = sorted(tensors)
    where = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        write_safetensors(directory / file, {n: tensors[n] for n in part}, {})
        where |= dict.fromkeys(part, file)
    (directory / "config.json").write_text(json.dumps(model.config.to_hf()))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def test_sharded_checkpoints_load_and_a_missing_shard_is_named(tmp_path):
    model = tiny_decoder()
    shards(model, tmp_path)
    assert base_hash(load_model(str(tmp_path))[0]) == base_hash(model)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        load_model(str(tmp_path))


def test_wrong_directories_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_model(str(tmp_path))
    model = tiny_decoder()
    tensors = {name: np.asarray(value) for name, value in named_tensors(model)}
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_hf()))
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_model(str(tmp_path))
    file, name = tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    write_safetensors(file, {k: v for k, v in tensors.items() if k != name}, {})
    with pytest.raises(WeightsError, match=f"{name}.*missing"):
        load_model(str(tmp_path))
    write_safetensors(file, tensors | {name: tensors[name][:-1]}, {})
    with pytest.raises(WeightsError, match=r"\(47, 32\).*\(48, 32\)"):
        load_model(str(tmp_path))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FileFormatError, match="safetensors"):
        load_model(str(tmp_path))


def test_the_same_weights_are_the_same_bytes(tmp_path):
    tensors = {"b": np.ones((2, 3), np.float32), "a": np.zeros(5, np.float16)}
    metadata = {f"key {i}": "ä" * i for i in range(20)}
    files.write_safetensors(tmp_path / "one", tensors, metadata)
    files.write_safetensors(tmp_path / "two", dict(reversed(tensors.items())), metadata)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read, told = files.read_safetensors(tmp_path / "one")
    assert told == metadata and read["a"].dtype == np.float16
    np.testing.assert_array_equal(read["b"], tensors["b"])
