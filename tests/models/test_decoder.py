import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.tiny import CONFIG, tiny_decoder

from automem_jax.models.config import DecoderConfig, embedded, qwen2_5_7b, qwen2_5_32b
from automem_jax.models.decoder import BaseWeight, Decoder, logits
from automem_jax.models.lora import add_adapters
from automem_jax.models.settings import REMAT, Settings

TOKENS = np.random.default_rng(0).integers(0, 64, (2, 12))


def test_parameter_counts_are_the_published_ones():
    assert embedded().parameter_count() == 620_160
    assert round(qwen2_5_7b().parameter_count() / 1e9, 2) == 7.62
    assert round(qwen2_5_32b().parameter_count() / 1e9, 2) == 32.76
    config = dataclasses.replace(CONFIG, tie_embeddings=False, qk_norm=True)
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(params=0)))
    counted = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, BaseWeight)))
    assert counted == config.parameter_count()


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False}, {"qkv_bias": False, "qk_norm": True}])
def test_config_survives_hugging_face_json(changes):
    config = tiny_decoder(**changes).config
    assert DecoderConfig.from_hf(config.to_hf()) == config


def test_both_rope_spellings_are_read():
    old = embedded().to_hf() | {"rope_theta": 5e5}
    del old["rope_parameters"]
    new = embedded().to_hf() | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    del new["rope_theta"]
    assert DecoderConfig.from_hf(old).rope_theta == DecoderConfig.from_hf(new).rope_theta == 5e5


@pytest.mark.parametrize(
    "change, word",
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
        ({"use_sliding_window": True}, "sliding"),
        ({"num_key_value_heads": 3}, "num_kv_heads 3"),
    ],
)
def test_what_is_not_computed_is_refused(change, word):
    source = embedded().to_hf() | change
    with pytest.raises(ValueError, match=word):
        DecoderConfig.from_hf(source)


def test_padding_changes_nothing():
    model = tiny_decoder()
    plain = logits(model, TOKENS)
    for left, right in ((3, 0), (0, 4)):
        tokens = np.pad(TOKENS, ((0, 0), (left, right)), constant_values=7)
        segments = np.pad(np.ones_like(TOKENS), ((0, 0), (left, right)))
        padded = logits(model, tokens, segments)[:, left : left + 12]
        np.testing.assert_allclose(padded, plain, atol=2e-5)


def test_packed_rows_equal_separate_rows():
    model = tiny_decoder()
    packed = np.concatenate([TOKENS[0, :5], TOKENS[1, :7]])[None]
    segments = np.array([[1] * 5 + [2] * 7])
    out = logits(model, packed, segments)[0]
    np.testing.assert_allclose(out[:5], logits(model, TOKENS[:1, :5])[0], atol=2e-5)
    np.testing.assert_allclose(out[5:], logits(model, TOKENS[1:, :7])[0], atol=2e-5)


def test_a_later_token_does_not_change_an_earlier_logit():
    model = tiny_decoder()
    changed = TOKENS.copy()
    changed[:, 8] = (changed[:, 8] + 1) % 64
    before, after = logits(model, TOKENS), logits(model, changed)
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert np.abs(before[:, 8:] - after[:, 8:]).max() > 1e-2


def test_filters_separate_base_from_adapters_and_remat_keeps_gradients():
    grads = []
    for remat in REMAT:
        model = tiny_decoder()
        model.settings = Settings(remat=remat)
        add_adapters(model, 1, 2, 4.0, "all_linear", nnx.Rngs(params=1))
        graphdef, adapters, base, rest = nnx.split(model, nnx.LoRAParam, BaseWeight, ...)
        assert len(jax.tree.leaves(adapters)) == 14 and not jax.tree.leaves(rest)

        def loss(adapters, graphdef=graphdef, base=base, rest=rest):
            whole = nnx.merge(graphdef, adapters, base, rest, copy=True)
            return jnp.mean(whole(TOKENS, adapter_ids=jnp.array([1, 1])) ** 2)

        grads.append(jax.jit(jax.grad(loss))(adapters))
    for again in grads[1:]:
        chex.assert_trees_all_close(grads[0], again, atol=1e-6)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads[0])) > 1e-4


def test_bfloat16_keeps_logits_float32():
    model = Decoder(tiny_decoder().config, rngs=nnx.Rngs(params=0), dtype=jnp.bfloat16)
    assert model.embed.get_value().dtype == jnp.bfloat16
    assert logits(model, TOKENS).dtype == jnp.float32
