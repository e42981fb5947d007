import numpy as np
import pytest
from flax import nnx
from models.tiny import tiny_decoder

from automem_jax.models import lora
from automem_jax.models.decoder import logits

TOKENS = np.random.default_rng(1).integers(0, 64, (4, 9))


def random_adapter(model, seed, rank=3, targets="all_linear"):
    copy = lora.with_adapters(model, [])
    lora.add_adapters(copy, 1, rank, 6.0, targets, nnx.Rngs(params=seed))
    fresh = lora.get_adapter(copy, 1)
    rng = np.random.default_rng(seed)
    weights = {k: 0.2 * rng.normal(size=v.shape).astype("f4") for k, v in fresh.weights.items()}
    return lora.Adapter(weights, rank, 6.0, targets, "base")


@pytest.mark.parametrize("targets", ["all_linear", "attention"])
def test_a_mixed_batch_equals_merged_models(targets):
    base = tiny_decoder()
    adapters = [random_adapter(base, seed, targets=targets) for seed in (1, 2)]
    model = lora.with_adapters(base, adapters)
    mixed = logits(model, TOKENS, adapter_ids=np.array([0, 1, 2, 1]))
    alone = [logits(whole, TOKENS) for whole in (base, lora.merge(model, 1), lora.merge(model, 2))]
    for row, which in enumerate([0, 1, 2, 1]):
        np.testing.assert_allclose(mixed[row], alone[which][row], atol=1e-4)
    assert np.abs(mixed[1] - alone[0][1]).max() > 0.1
    assert np.abs(mixed[2] - alone[1][2]).max() > 0.1


def test_base_rows_have_the_same_bits_with_and_without_adapters():
    base = tiny_decoder()
    model = lora.with_adapters(base, [random_adapter(base, 1)])
    mixed = logits(model, TOKENS, adapter_ids=np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(mixed[::2], logits(base, TOKENS)[::2])


def test_a_fresh_adapter_is_the_base():
    model = tiny_decoder()
    before = logits(model, TOKENS)
    lora.add_adapters(model, 2, 4, 8.0, "all_linear", nnx.Rngs(params=0))
    np.testing.assert_array_equal(logits(model, TOKENS, adapter_ids=np.array([1, 2, 0, 1])), before)


def test_with_adapters_and_merge_leave_their_model_alone():
    base = tiny_decoder()
    before = logits(base, TOKENS)
    model = lora.with_adapters(base, [random_adapter(base, 1)])
    lora.merge(model, 1)
    assert base.adapter_count == 0
    np.testing.assert_array_equal(logits(base, TOKENS), before)
    assert model.embed.get_value() is base.embed.get_value()


def test_adapters_survive_the_file(tmp_path):
    base = tiny_decoder()
    adapter = random_adapter(base, 1, targets="attention")
    path = tmp_path / "adapter.safetensors"
    lora.save_adapter(path, adapter)
    loaded = lora.load_adapter(path, base_hash="base")
    assert loaded.hash() == adapter.hash()
    assert (loaded.rank, loaded.alpha, loaded.targets) == (3, 6.0, "attention")
    assert [p.name for p in tmp_path.iterdir()] == ["adapter.safetensors"]
    with pytest.raises(lora.AdapterError, match="trained on base"):
        lora.load_adapter(path, base_hash="other")


def test_adapters_that_do_not_fit_are_refused():
    base = tiny_decoder()
    model = lora.with_adapters(base, [random_adapter(base, 1)])
    with pytest.raises(lora.AdapterError, match="rank 2"):
        lora.set_adapter(model, 1, random_adapter(base, 1, rank=2))
    with pytest.raises(lora.AdapterError, match="shape"):
        lora.set_adapter(model, 1, random_adapter(tiny_decoder(d_ff=64), 1))
    with pytest.raises(lora.AdapterError, match="adapter 2 does not exist"):
        lora.get_adapter(model, 2)
    with pytest.raises(lora.AdapterError, match="'mlp'"):
        lora.add_adapters(model, 1, 2, 4.0, "mlp", nnx.Rngs(params=0))
