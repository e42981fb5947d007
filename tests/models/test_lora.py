import jax
import numpy as np
import pytest
from flax import nnx
from models.tiny import tiny_decoder

from automem_jax.models import lora
from automem_jax.models.decoder import logits
from automem_jax.models.settings import Dropout, Settings

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
    with pytest.raises(lora.AdapterError, match="'query'"):
        lora.add_adapters(model, 1, 2, 4.0, "query", nnx.Rngs(params=0))


def test_targets_say_which_projections_are_adapted():
    for targets, count in (("attention", 4), ("qv", 2), ("mlp", 3), ("all_linear", 7)):
        model = tiny_decoder()
        lora.add_adapters(model, 1, 2, 4.0, targets, nnx.Rngs(params=0))
        weights = lora.get_adapter(model, 1).weights
        assert {name.split(".")[0] for name in weights} == set(lora.TARGETS[targets])
        assert len(weights) == 2 * count


def test_dropout_acts_on_the_adapter_alone_and_only_with_a_key():
    base = tiny_decoder()
    model = tiny_decoder()
    lora.add_adapters(model, 1, 3, 6.0, "all_linear", nnx.Rngs(params=0), dropout=0.5)
    ones = np.ones(4, np.int32)

    def hidden(model, seed=None, ids=ones, remat="none"):
        model.settings = Settings(remat=remat, mlp_chunk=4)
        key = None if seed is None else jax.random.key(seed)
        return np.asarray(model.hidden(TOKENS[:, :8], adapter_ids=ids, dropout_key=key)[0])

    np.testing.assert_array_equal(hidden(model, 1), hidden(base))  # B is zero: nothing to drop
    lora.set_adapter(model, 1, random_adapter(base, 1).weights)
    plain = hidden(model)
    np.testing.assert_array_equal(
        plain, hidden(lora.with_adapters(base, [random_adapter(base, 1)]))
    )
    dropped = hidden(model, 1)
    assert np.abs(dropped - plain).max() > 0.05
    assert np.abs(dropped - hidden(model, 2)).max() > 0.05
    np.testing.assert_allclose(dropped, hidden(model, 1, remat="full"), atol=2e-5)
    np.testing.assert_array_equal(hidden(model, 1, np.zeros(4, np.int32)), hidden(base))


def test_dropout_keeps_the_mean_and_the_share():
    x = np.ones((2, 64, 256), np.float32)
    drop = Dropout(jax.random.key(0), np.arange(64)).of("q")
    out = np.asarray(drop.applied(x, 0.25))
    assert set(np.unique(out)) == {np.float32(0), np.float32(4 / 3)}
    assert abs((out == 0).mean() - 0.25) < 0.01
    later = drop.of("k"), Dropout(drop.key, np.arange(32, 64))
    assert np.mean(np.asarray(later[0].applied(x, 0.25)) == out) < 0.7
    np.testing.assert_array_equal(later[1].applied(x[:, 32:], 0.25), out[:, 32:])


def test_a_dropout_outside_its_range_is_refused():
    with pytest.raises(lora.AdapterError, match="1.0"):
        lora.add_adapters(tiny_decoder(), 1, 2, 4.0, "qv", nnx.Rngs(params=0), dropout=1.0)
