"""Products with an adapter's thin matrices, with gradients written for CPU speed.

Left to autodiff, the gradients of A and B are products whose wide operand has to be transposed in memory
first, which on a CPU takes as long as the products. Here only thin operands are.

Axes: B batch, T time, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def merged_product(
    x: Float[Array, "B T I"],
    kernel: Float[Array, "I O"],
    a: Float[Array, "I R"],
    b: Float[Array, "R O"],
    scale: float,
) -> Float[Array, "B T O"]:
    """x @ (kernel + scale * a @ b): one wide product. `kernel` is frozen and gets no gradient.

    For float32 kernels; one of fewer bits would swallow what the adapter adds.
    """
    return x @ _merged(kernel, a, b, scale)


def _merged(kernel, a, b, scale):
    return kernel + (a * scale) @ b


def _merged_forward(x, kernel, a, b, scale):
    return merged_product(x, kernel, a, b, scale), (x, kernel, a, b)


def _merged_backward(scale, saved, d_out):
    x, kernel, a, b = saved
    d_x = jnp.einsum("bto,io->bti", d_out, _merged(kernel, a, b, scale))
    return d_x, jnp.zeros_like(kernel), *_thin_gradients(x, a, b, scale, d_out)


merged_product.defvjp(_merged_forward, _merged_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def thin_product(
    x: Float[Array, "B T I"], a: Float[Array, "I R"], b: Float[Array, "R O"], scale: float
) -> Float[Array, "B T O"]:
    """scale * x @ a @ b."""
    return ((x @ a) * scale) @ b


def _thin_forward(x, a, b, scale):
    return thin_product(x, a, b, scale), (x, a, b)


def _thin_backward(scale, saved, d_out):
    x, a, b = saved
    d_low = jnp.einsum("bto,ro->btr", d_out, b * scale)
    d_x = jnp.einsum("btr,ir->bti", d_low, a)
    return d_x, *_thin_gradients(x, a, b, scale, d_out)


thin_product.defvjp(_thin_forward, _thin_backward)


def _thin_gradients(x, a, b, scale, d_out):
    """Gradients of a and b: the thin factor stands first in every product over B and T."""
    d_low = jnp.einsum("bto,ro->btr", d_out, b * scale)
    low = jnp.einsum("bti,ir->btr", x, a * scale)
    d_a = jnp.einsum("btr,bti->ri", d_low, x).T
    d_b = jnp.einsum("btr,bto->ro", low, d_out)
    return d_a, d_b
