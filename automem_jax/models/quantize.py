"""A frozen base in int8 or nf4 (QLoRA, Dettmers et al., arXiv 2305.14314), quantised by qwix.

int8 has a scale for each output; nf4 (16 quantiles of a normal distribution) one for each output and
64 inputs. Kernels are quantised; embeddings, norms and biases stay as they are. A product runs on
the dequantised kernel of one layer at a time.

Axes: L layers, I inputs, O outputs, J scales along the inputs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from automem_jax.models.decoder import Decoder, Linear

KINDS = ("int8", "nf4")
TILE = 64
# Appendix E of the paper.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def quantize_kernel(kernel: Float[Array, "I O"], kind: str) -> tuple[Array, Array]:
    """(codes [I, O], scales [J, O]) of one kernel; scales have the kernel's dtype.

    Raises:
      ValueError: an unknown kind.
    """
    import qwix

    _check(kind)
    if kind == "int8":
        array = qwix.quantize(kernel, jnp.int8, channelwise_axes=(1,))
    else:
        tile = int(np.gcd(TILE, kernel.shape[0]))
        array = qwix.quantize(kernel, "nf4", channelwise_axes=(1,), tiled_axes={0: tile})
    return array.qvalue, array.scale


def dequantize(codes: Array, scales: Array, dtype: Any) -> Array:
    """The kernel(s) [..., I, O] in `dtype`.

    The same as qwix.dequantize; that flattens nf4 codes, which would gather a sharded kernel.
    """
    values = _nf4_values(codes, dtype) if codes.dtype == jnp.uint4 else codes.astype(dtype)
    *lead, inputs, outputs = codes.shape
    tiles = scales.shape[-2]
    values = values.reshape(*lead, tiles, inputs // tiles, outputs)
    return (values * scales.astype(dtype)[..., :, None, :]).reshape(codes.shape)


def quantize_base(model: Decoder, kind: str) -> None:
    """Quantises every projection's kernel, in place, one projection at a time.

    Works on abstract models too (inside nnx.eval_shape). To load a checkpoint that does not fit in
    float, quantise each tensor with `quantize_kernel` as it is read and `install` the codes.

    Raises:
      ValueError: an unknown kind, or a base that is quantised already.
    """
    _check(kind)
    if model.quantization is not None:
        raise ValueError(f"this base is quantised already ({model.quantization}); load it again")
    for linear in model.linears().values():
        quantize_linear(linear, kind)
    model.quantization = kind


def quantize_linear(linear: Linear, kind: str) -> None:
    """Puts codes and scales in the place of one projection's kernels, layer by layer."""
    _check(kind)
    install(linear, *_quantize_stack(linear.kernel.get_value(), kind))


def install(linear: Linear, codes: Array, scales: Array) -> None:
    """Puts codes [L, I, O] and scales [L, J, O] in the place of a projection's kernel."""
    weight = type(linear.kernel)
    axes = ("layers", *linear.axes)
    linear.codes = weight(codes, axes=axes)
    linear.scales = weight(scales, axes=axes if scales.shape[1] > 1 else (axes[0], None, axes[2]))
    linear.kernel = nnx.data(None)


@functools.partial(jax.jit, static_argnums=1)
def _quantize_stack(kernels: Float[Array, "L I O"], kind: str) -> tuple[Array, Array]:
    return jax.lax.map(lambda kernel: quantize_kernel(kernel, kind), kernels)


def _nf4_values(codes: Array, dtype: Any) -> Array:
    """A tree of selections: no gather, so it shards and fuses like any other elementwise work."""
    codes = codes.astype(jnp.int8)
    values: list[Any] = [jnp.asarray(value, dtype) for value in NF4]
    for bit in range(4):
        high = (codes >> bit) & 1 == 1
        values = [
            jnp.where(high, upper, lower)
            for lower, upper in zip(values[::2], values[1::2], strict=True)
        ]
    return values[0]


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"quantization {kind!r} unknown; one of {', '.join(KINDS)}")
