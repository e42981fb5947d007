"""Loading: memory, sharding, dtypes, and errors that name what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from tiny import tiny_decoder

from automem_jax.models import base_hash, load_hf, save_model
from automem_jax.models import load as loading
from automem_jax.models.tensors import WeightsError
from automem_jax.models.weights import save_orbax
from automem_jax.text.tokenizer import VocabularyError


@pytest.mark.parametrize("dtype, sharded", [("float32", "one"), ("bfloat16", "sharded")])
def test_a_load_takes_little_memory_beside_its_arrays(tmp_path, dtype, sharded):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    script = Path(__file__).with_name("load_memory.py")
    root = str(Path(loading.__file__).parents[2])
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, script, tmp_path, dtype, sharded],
        env=os.environ | {"PYTHONPATH": root, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["arrays"] > 1.5e8
    assert found["extra"] < 1.5 * found["largest"], found


def test_both_kinds_of_part_hold_the_same(tmp_path, monkeypatch):
    model = tiny_decoder(3, qkv_bias=True)
    save_model(model, tmp_path)
    monkeypatch.setattr(loading, "_HostPart", loading._DevicePart)
    monkeypatch.setattr(loading, "CHUNK_BYTES", 999)
    assert base_hash(load_hf(tmp_path)) == base_hash(model)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_dtypes_are_converted(tmp_path, stored, wanted):
    model = tiny_decoder()
    rounded = jax.tree.map(lambda x: x.astype(stored), model.embed.get_value())
    from flax import nnx

    from automem_jax.models import BaseWeight

    nnx.update(model, jax.tree.map(lambda x: x.astype(stored), nnx.state(model, BaseWeight)))
    save_model(model, tmp_path)
    loaded = load_hf(tmp_path, dtype=jnp.dtype(wanted)).embed.get_value()
    np.testing.assert_array_equal(loaded, rounded.astype(wanted))


def test_orbax_holds_the_same_and_says_what_does_not_fit(tmp_path):
    model = tiny_decoder(4)
    save_orbax(model, tmp_path)
    loaded = load_hf(tmp_path)
    assert base_hash(loaded) == base_hash(model)
    assert isinstance(loaded.embed.get_value().sharding, SingleDeviceSharding)
    with pytest.raises(FileExistsError, match="choose another"):
        save_orbax(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(WeightsError, match="down_proj.*different models"):
        load_hf(tmp_path)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    save_model(tiny_decoder(), tmp_path)
    tokenizer = {"model": {"vocab": {str(i): i for i in range(500)}}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(VocabularyError, match="500 tokens.*64 rows"):
        load_hf(tmp_path)


def test_tensors_without_a_place_are_refused(tmp_path):
    save_model(tiny_decoder(num_layers=3), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(WeightsError, match="layers.2.*2 layers"):
        load_hf(tmp_path)
