"""Products with adapters whose gradients are written by hand, against autodiff of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import tiny_decoder

from automem_jax.models.lora import add_adapters
from automem_jax.models.low_rank import merged_product, thin_product

SCALE = 1.75


def _operands():
    draw = np.random.default_rng(3).normal
    shapes = {"x": (2, 5, 6), "kernel": (6, 7), "a": (6, 3), "b": (3, 7), "weight": (2, 5, 7)}
    return [jnp.asarray(draw(size=shape), jnp.float32) for shape in shapes.values()]


@pytest.mark.parametrize("merged", [True, False])
def test_value_and_gradients_are_those_of_the_definition(merged):
    x, kernel, a, b, weight = _operands()

    def loss(x, a, b):
        if merged:
            out = merged_product(x, kernel, a, b, SCALE)
        else:
            out = x @ kernel + thin_product(x, a, b, SCALE)
        return jnp.sum(jnp.sin(out) * weight)

    def defined(x, a, b):
        return jnp.sum(jnp.sin(x @ kernel + SCALE * x @ a @ b) * weight)

    found = jax.value_and_grad(loss, (0, 1, 2))(x, a, b)
    wanted = jax.value_and_grad(defined, (0, 1, 2))(x, a, b)
    jax.tree.map(lambda f, w: np.testing.assert_allclose(f, w, rtol=2e-5, atol=2e-5), found, wanted)


def test_one_adapter_for_all_rows_equals_the_same_chosen_by_row():
    model = tiny_decoder()
    add_adapters(model, 2, rank=3, alpha=6.0, targets="all_linear", rngs=nnx.Rngs(params=1))
    for linear in model.linears().values():
        linear.lora_b.set_value(
            jax.random.normal(jax.random.key(2), linear.lora_b.get_value().shape) * 0.1
        )
    tokens = jnp.arange(10).reshape(2, 5) % model.config.vocab_size
    base = model.hidden(tokens)[0]
    for adapter in (1, 2):
        found = model.hidden(tokens, adapter_ids=adapter)[0]
        wanted = model.hidden(tokens, adapter_ids=jnp.full(2, adapter, jnp.int32))[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
        assert float(jnp.abs(found - base).max()) > 1e-3
