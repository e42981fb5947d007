"""Adapters and weights out and in: exact values, resumed, nothing overwritten; live against peft."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import tiny_decoder

from automem_jax.models import base_hash, export, load_hf, logits, lora, peft, save_model
from automem_jax.models.convert import ConversionError, convert
from automem_jax.models.lora import AdapterError

TOKENS = np.random.default_rng(0).integers(0, 64, (2, 12)).astype(np.int32)


def trained(targets="all_linear", **changes):
    """A model with one random adapter, resident and by itself."""
    model = tiny_decoder(1, **changes)
    lora.add_adapters(model, 1, 4, 6.0, targets, nnx.Rngs(params=0))
    fresh, key = lora.get_adapter(model, 1), jax.random.key(3)
    weights = {
        name: 0.2 * jax.random.normal(jax.random.fold_in(key, i), value.shape)
        for i, (name, value) in enumerate(sorted(fresh.weights.items()))
    }
    adapter = lora.Adapter(weights, 4, 6.0, targets, base_hash(model))
    lora.set_adapter(model, 1, adapter)
    return model, adapter


def adapted_logits(model):
    return np.asarray(logits(model, TOKENS, adapter_ids=jnp.ones(2, jnp.int32)))


@pytest.mark.parametrize("targets", ["all_linear", "attention"])
def test_peft_out_and_in_is_exact(tmp_path, targets):
    _, adapter = trained(targets)
    peft.export_peft(adapter, tmp_path, "some/base")
    back = peft.import_peft(tmp_path)
    assert (back.rank, back.alpha, back.targets) == (4, 6.0, targets)
    assert back.weights.keys() == adapter.weights.keys()
    for name, value in adapter.weights.items():
        np.testing.assert_array_equal(back.weights[name], value)
    with pytest.raises(FileExistsError, match="already"):
        peft.export_peft(adapter, tmp_path)


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False, "tie_embeddings": False}])
def test_merged_is_base_and_adapter_in_one(tmp_path, changes):
    model, adapter = trained(**changes)
    save_model(model, tmp_path / "base")
    lora.save_adapter(tmp_path / "adapter", adapter)
    convert(
        tmp_path / "adapter",
        "merged",
        tmp_path / "merged",
        base=tmp_path / "base",
        shard_bytes=30_000,
    )
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 1
    found = np.asarray(logits(load_hf(tmp_path / "merged"), TOKENS))
    np.testing.assert_allclose(found, adapted_logits(model), atol=2e-5)
    export.export_merged(model, 1, tmp_path / "live")
    assert base_hash(load_hf(tmp_path / "live")) == base_hash(load_hf(tmp_path / "merged"))


def test_a_stopped_conversion_goes_on_and_nothing_is_overwritten(tmp_path):
    model, _ = trained()
    save_model(model, tmp_path / "base")
    out = tmp_path / "out"

    class Stop(Exception):
        pass

    def stop_midway(done, total):
        if done > total // 2:
            raise Stop

    with pytest.raises(Stop):
        convert(tmp_path / "base", "hf", out, shard_bytes=20_000, progress=stop_midway)
    first = sorted(out.glob("*.safetensors"))
    before = [path.stat().st_mtime_ns for path in first]
    assert first and not (out / "config.json").exists()
    with pytest.raises(ConversionError, match="unfinished conversion of something else"):
        convert(tmp_path / "base", "hf", out, dtype="bfloat16")
    convert(tmp_path / "base", "hf", out, shard_bytes=20_000)
    assert [path.stat().st_mtime_ns for path in first] == before
    assert base_hash(load_hf(out)) == base_hash(model)
    with pytest.raises(ConversionError, match="not overwritten"):
        convert(tmp_path / "base", "hf", out, shard_bytes=20_000)


def test_orbax_there_and_back(tmp_path):
    model, _ = trained()
    save_model(model, tmp_path / "base")
    convert(tmp_path / "base", "orbax", tmp_path / "orbax")
    convert(tmp_path / "orbax", "hf", tmp_path / "hf")
    assert base_hash(load_hf(tmp_path / "hf")) == base_hash(model)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    model, adapter = trained()
    save_model(tiny_decoder(9), tmp_path / "other")
    lora.save_adapter(tmp_path / "adapter", adapter)
    arguments = (tmp_path / "adapter", "merged", tmp_path / "out")
    with pytest.raises(AdapterError, match="trained on base"):
        convert(*arguments, base=tmp_path / "other")
    save_model(tiny_decoder(9, d_ff=64), tmp_path / "wider")
    with pytest.raises(AdapterError, match="made for another base"):
        convert(tmp_path / "adapter", "merged", tmp_path / "out2", base=tmp_path / "wider")
    convert(*arguments, base=tmp_path / "other", any_base=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"use_dora": True}, "use_dora"),
        ({"r": 0}, "at least 1"),
        ({"r": 5}, "not of rank 5"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    ],
)
def test_peft_adapters_that_are_not_computed_are_refused(tmp_path, change, message):
    peft.export_peft(trained("attention")[1], tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        peft.import_peft(tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_exports_load_in_peft_and_transformers_with_the_same_logits(tmp_path, family):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = pytest.importorskip("peft", reason="peft is not installed")
    model, adapter = trained(
        qkv_bias=family == "qwen2", qk_norm=family == "qwen3", tie_embeddings=family == "qwen2"
    )
    save_model(model, tmp_path / "base")
    peft.export_peft(adapter, tmp_path / "peft")
    export.export_merged(model, 1, tmp_path / "merged")
    tokens = torch.tensor(TOKENS).long()
    load = transformers.AutoModelForCausalLM.from_pretrained
    with torch.no_grad():
        merged = load(tmp_path / "merged", dtype=torch.float32)(tokens).logits.numpy()
        base = load(tmp_path / "base", dtype=torch.float32)
        with_adapter = theirs.PeftModel.from_pretrained(base, tmp_path / "peft")
        adapted = with_adapter(tokens).logits.numpy()
    np.testing.assert_allclose(merged, adapted_logits(model), atol=2e-4, rtol=0)
    np.testing.assert_allclose(adapted, adapted_logits(model), atol=2e-4, rtol=0)
