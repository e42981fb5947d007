import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.tiny import tiny_decoder

from automem_jax.models import lora, quantize, weights
from automem_jax.models.decoder import BaseWeight, logits
from automem_jax.models.settings import Settings

TOKENS = np.random.default_rng(0).integers(0, 64, (2, 12))


@pytest.mark.parametrize("kind, error", [("int8", 0.01), ("nf4", 0.12)])
def test_a_kernel_comes_back_close_and_as_qwix_has_it(kind, error):
    qwix = pytest.importorskip("qwix")
    kernel = jax.random.normal(jax.random.key(0), (192, 40))
    codes, scales = quantize.quantize_kernel(kernel, kind)
    assert codes.dtype == {"int8": jnp.int8, "nf4": jnp.uint4}[kind]
    assert scales.shape == {"int8": (1, 40), "nf4": (3, 40)}[kind]
    ours = quantize.dequantize(codes, scales, jnp.float32)
    theirs = qwix.dequantize(qwix.QArray(codes, scales, qtype=kind))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert float(jnp.sqrt(jnp.mean((ours - kernel) ** 2))) < error
    both = quantize.dequantize(jnp.stack([codes] * 2), jnp.stack([scales] * 2), jnp.float32)
    np.testing.assert_array_equal(both[1], ours)


@pytest.mark.parametrize("kind, error", [("int8", 0.05), ("nf4", 0.6)])
def test_a_quantised_base_computes_nearly_the_same(kind, error):
    model = tiny_decoder(qkv_bias=True)
    before = logits(model, TOKENS)
    quantize.quantize_base(model, kind)
    after = logits(model, TOKENS)
    difference = float(jnp.linalg.norm(after - before) / jnp.linalg.norm(before))
    assert 1e-5 < difference < error
    with pytest.raises(ValueError, match="already"):
        quantize.quantize_base(model, kind)


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_adapters_learn_on_a_quantised_base(kind):
    model = tiny_decoder()
    quantize.quantize_base(model, kind)
    model.settings = Settings(remat="full")
    lora.add_adapters(model, 1, 2, 4.0, "all_linear", nnx.Rngs(params=1))
    graphdef, adapters, base, rest = nnx.split(model, nnx.LoRAParam, BaseWeight, ...)
    assert not jax.tree.leaves(rest)  # every variable is trained or frozen
    assert len([leaf for leaf in jax.tree.leaves(base) if leaf.dtype != jnp.float32]) == 7

    def loss(adapters):
        whole = nnx.merge(graphdef, adapters, base, rest, copy=True)
        return jnp.mean(whole(TOKENS, adapter_ids=jnp.array([1, 1])) ** 2)

    before, grads = jax.jit(jax.value_and_grad(loss))(adapters)
    flat = dict(nnx.to_flat_state(grads))
    assert all(float(jnp.abs(g[...]).max()) > 0 for p, g in flat.items() if p[-1] == "lora_b")
    moved = jax.tree.map(lambda w, g: w - 0.01 * g, adapters, grads)
    assert float(loss(moved)) < float(before)


def test_merging_into_a_quantised_base_gives_float_kernels():
    model = tiny_decoder()
    quantize.quantize_base(model, "int8")
    lora.add_adapters(model, 1, 2, 4.0, "attention", nnx.Rngs(params=1))
    adapter = lora.get_adapter(model, 1)
    lora.set_adapter(model, 1, {k: v + 0.1 for k, v in adapter.weights.items()})
    merged = lora.merge(model, 1)
    assert merged.layers.q_proj.kernel is not None and merged.layers.up_proj.kernel is None
    expected = logits(model, TOKENS, adapter_ids=np.array([1, 1]))
    np.testing.assert_allclose(logits(merged, TOKENS), expected, atol=2e-4)


def test_a_quantised_model_can_be_abstract():
    def build():
        model = tiny_decoder()
        quantize.quantize_base(model, "nf4")
        return model

    model = nnx.eval_shape(build)
    assert model.layers.up_proj.codes.get_value().shape == (2, 32, 48)
    with pytest.raises(ValueError, match="'fp4'"):
        quantize.quantize_base(tiny_decoder(), "fp4")


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_a_base_is_quantised_while_it_is_read(kind, tmp_path):
    model = tiny_decoder(qkv_bias=True)
    weights.save_model(model, tmp_path)
    loaded, _ = weights.load_model(tmp_path, quantization=kind)
    assert loaded.quantization == kind and loaded.layers.q_proj.kernel is None
    unquantised = weights.base_hash(model)
    quantize.quantize_base(model, kind)
    np.testing.assert_array_equal(logits(loaded, TOKENS), logits(model, TOKENS))
    assert weights.base_hash(loaded) == weights.base_hash(model) != unquantised
    code = model.layers.up_proj.codes
    code.set_value(code.get_value().at[0, 0, 0].set(1 - code.get_value()[0, 0, 0]))
    assert weights.base_hash(loaded) != weights.base_hash(model)
