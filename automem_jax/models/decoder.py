"""The decoder in Flax NNX: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Families Qwen2/Qwen2.5, Qwen3 and Llama (configs choose biases, norms and tied head). Layers are
stacked on a leading axis and run by one scan.

Axes: B batch, T time, S source positions, L layers, H query heads, K kv heads, G = H / K,
C head_dim, D model, F ffn, V vocab, N adapters, R rank.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from automem_jax.models.config import DecoderConfig
from automem_jax.models.kv_cache import KVCache
from automem_jax.sharding import constrain

NEGATIVE = -1e30


class BaseWeight(nnx.Variable):
    """A weight of the base model. Not an nnx.Param, so a filter for adapters never catches it."""


class Linear(nnx.Module):
    """L stacked projections x @ kernel (+ bias) (+ the adapter that each row chose).

    `lora_a` [L, N, in, R] and `lora_b` [L, N, R, out] are None until adapters are added.
    """

    def __init__(self, layers, inputs, outputs, axes, *, bias, scale, dtype, rngs):
        shape = (layers, inputs, outputs)
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32) * scale
        self.kernel = BaseWeight(kernel.astype(dtype), axes=("layers", *axes))
        zeros = functools.partial(jnp.zeros, (layers, outputs), dtype)
        self.bias = BaseWeight(zeros(), axes=("layers", axes[1])) if bias else None
        self.lora_a: nnx.LoRAParam | None = nnx.data(None)
        self.lora_b: nnx.LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0

    def __call__(self, x: Float[Array, "B T I"], chosen: Float[Array, "B N"] | None):
        out = x @ self.kernel[...]
        if self.bias is not None:
            out = out + self.bias[...]
        if chosen is None or self.lora_a is None:
            return out
        low = jnp.einsum("bti,nir->btnr", x.astype(self.lora_a.dtype), self.lora_a[...])
        low = low * (chosen * self.lora_scale)[:, None, :, None]
        return out + jnp.einsum("btnr,nro->bto", low, self.lora_b[...]).astype(out.dtype)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in float32."""

    def __init__(self, shape, eps: float, axes, dtype):
        self.scale = BaseWeight(jnp.ones(shape, dtype), axes=axes)
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class Layer(nnx.Module):
    """L stacked decoder layers; a slice of the leading axis is one layer and can be called."""

    def __init__(self, config: DecoderConfig, dtype, rngs: nnx.Rngs):
        c, layers = config, config.num_layers
        query, key = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        linear = functools.partial(Linear, layers, dtype=dtype, rngs=rngs)
        out_scale = 0.02 / (2 * layers) ** 0.5
        wide = {"bias": c.qkv_bias, "scale": 0.02}
        self.q_proj = linear(c.d_model, query, ("embed", "heads"), **wide)
        self.k_proj = linear(c.d_model, key, ("embed", "kv_heads"), **wide)
        self.v_proj = linear(c.d_model, key, ("embed", "kv_heads"), **wide)
        self.o_proj = linear(query, c.d_model, ("heads", "embed"), bias=False, scale=out_scale)
        self.gate_proj = linear(c.d_model, c.d_ff, ("embed", "mlp"), bias=False, scale=0.02)
        self.up_proj = linear(c.d_model, c.d_ff, ("embed", "mlp"), bias=False, scale=0.02)
        self.down_proj = linear(c.d_ff, c.d_model, ("mlp", "embed"), bias=False, scale=out_scale)
        norm = functools.partial(RMSNorm, eps=c.rms_norm_eps, dtype=dtype)
        self.attention_norm = norm((layers, c.d_model), axes=("layers", None))
        self.mlp_norm = norm((layers, c.d_model), axes=("layers", None))
        per_head = functools.partial(norm, (layers, c.head_dim), axes=("layers", None))
        self.q_norm = per_head() if c.qk_norm else None
        self.k_norm = per_head() if c.qk_norm else None
        self.config = config

    def __call__(self, x, rotation, mask, chosen, past=None, step=None):
        """One layer: (new residual stream, (keys, values)).

        Without `past`: keys and values of the tokens in `x`, both [B, K, T, C]. With `past`, this layer's
        cached keys [B, K, C, S] and values [B, K, S, C]: the same with the one token of `x`
        written at index `step`.
        """
        c = self.config
        b, t, _ = x.shape
        h = self.attention_norm(x)
        q = self.q_proj(h, chosen).reshape(b, t, c.num_heads, c.head_dim)
        k = self.k_proj(h, chosen).reshape(b, t, c.num_kv_heads, c.head_dim)
        v = self.v_proj(h, chosen).reshape(b, t, c.num_kv_heads, c.head_dim)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q = constrain(rotate(q, rotation), ("batch", "time", "act_heads", None))
        k, v = rotate(k, rotation).swapaxes(1, 2), v.swapaxes(1, 2)
        q = q.reshape(b, t, c.num_kv_heads, c.num_heads // c.num_kv_heads, c.head_dim)
        if past is None:
            attended = attend(q, k, v, mask)
        else:
            k, v = written(past[0], k.swapaxes(2, 3), step, 3), written(past[1], v, step, 2)
            attended = attend_cached(q, k, v, mask)
        x = x + self.o_proj(attended.reshape(b, t, c.num_heads * c.head_dim), chosen)
        x = constrain(x, ("batch", "time", "act_embed"))
        h = self.mlp_norm(x)
        h = jax.nn.silu(self.gate_proj(h, chosen)) * self.up_proj(h, chosen)
        x = x + self.down_proj(constrain(h, ("batch", "time", "act_mlp")), chosen)
        return constrain(x, ("batch", "time", "act_embed")), (k, v)


class Decoder(nnx.Module):
    """A causal language model: tokens [B, T] in, float32 logits [B, T, V] out.

    Args:
      config: shapes.
      rngs: stream `params` initialises weights (normal 0.02, residual outputs scaled down).
      dtype: of weights and activations; norms, softmax and logits are float32.
      remat: recompute each layer's activations in the backward pass.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        remat: bool = False,
    ):
        self.config = config
        self.remat = remat
        self.adapter_count, self.adapter_rank = 0, 0
        self.adapter_alpha, self.adapter_targets = 0.0, ""
        table = jax.random.normal(rngs.params(), (config.vocab_size, config.d_model)) * 0.02
        self.embed = BaseWeight(table.astype(dtype), axes=("vocab", "embed"))
        self.layers = Layer(config, dtype, rngs)
        self.final_norm = RMSNorm((config.d_model,), config.rms_norm_eps, (None,), dtype)
        if config.tie_embeddings:
            self.head = None
        else:
            head = jax.random.normal(rngs.params(), (config.d_model, config.vocab_size)) * 0.02
            self.head = BaseWeight(head.astype(dtype), axes=("embed", "vocab"))

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        cache: KVCache | None = None,
        adapter_ids: Int[Array, " B"] | None = None,
    ):
        """Logits [B, T, V]; with `cache` (T = 1) a pair (logits, cache with the tokens written).

        Args:
          tokens: ids, 0 .. V - 1.
          positions: rotary positions; by default they count from 0 in every segment, or follow the cache.
          segment_ids: tokens attend within their own segment only; 0 is padding. Default: all 1.
          cache: attention state to read and extend by one token a row.
          adapter_ids: adapter of each row, 0 = the base alone, i = adapter i (from 1). None: base.
        """
        if cache is None:
            hidden, _ = self.hidden(tokens, positions, segment_ids, adapter_ids)
            return self.unembed(hidden)
        hidden, cache = self.extend(tokens, cache, adapter_ids)
        return self.unembed(hidden), cache

    def hidden(self, tokens, positions=None, segment_ids=None, adapter_ids=None):
        """Normalised last hidden states [B, T, D], and keys and values [L, B, K, T, C]."""
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        if positions is None:
            positions = segment_positions(segment_ids)
        x, rotation, chosen = self._enter(tokens, positions, adapter_ids)
        mask = causal_mask(segment_ids)
        graphdef, stacked = nnx.split(self.layers)

        def body(x, state):
            return nnx.merge(graphdef, state)(x, rotation, mask, chosen)

        if self.remat:
            body = jax.checkpoint(body, prevent_cse=False)
        x, new = jax.lax.scan(body, x, stacked)
        return self.final_norm(x), new

    def extend(self, tokens: Int[Array, "B 1"], cache: KVCache, adapter_ids=None, unstacked=None):
        """Hidden states of one more token a row [B, 1, D], and the cache with it written.

        Layers are unrolled, not scanned: a scan would copy every layer's cache at every token.
        `unstacked` is `unstacked_layers()`, sliced once outside a decode loop.
        """
        if tokens.shape[1] != 1:
            raise ValueError(f"a cached call takes one token a row, got T = {tokens.shape[1]}")
        x, rotation, chosen = self._enter(
            tokens, (cache.lengths + cache.step)[:, None], adapter_ids
        )
        mask, keys, values = cache.valid(), [], []
        graphdef = nnx.graphdef(self.layers)
        for state, past in zip(
            unstacked or self.unstacked_layers(),
            zip(cache.keys, cache.values, strict=False),
            strict=False,
        ):
            layer = nnx.merge(graphdef, state)
            x, (k, v) = layer(x, rotation, mask, chosen, past, cache.step)
            keys.append(k)
            values.append(v)
        return self.final_norm(x), KVCache(
            tuple(keys), tuple(values), cache.lengths, cache.step + 1
        )

    def unstacked_layers(self) -> list[nnx.State]:
        """The state of each layer, sliced from the stack."""
        stacked = nnx.state(self.layers)
        take = lambda i: jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: E731
        return [take(i) for i in range(self.config.num_layers)]

    def unembed(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Float32 logits of hidden states."""
        head = self.embed[...].T if self.head is None else self.head[...]
        return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)

    def _enter(self, tokens, positions, adapter_ids):
        chosen = None
        if adapter_ids is not None and self.adapter_count:
            chosen = jax.nn.one_hot(adapter_ids - 1, self.adapter_count, dtype=jnp.float32)
        rotation = rotation_of(positions, self.config.head_dim, self.config.rope_theta)
        return constrain(self.embed[...][tokens], ("batch", "time", "act_embed")), rotation, chosen


def rotation_of(positions: Int[Array, "B T"], head_dim: int, theta: float):
    """Cosines and sines [B, T, 1, C / 2], float32, of the rotary embedding at `positions`."""
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angle = positions[..., None].astype(jnp.float32) / jnp.power(jnp.float32(theta), exponent)
    return jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]


def rotate(x: Float[Array, "B T H C"], rotation) -> Float[Array, "B T H C"]:
    """Rotates the pair (first half, second half) of each head, as Hugging Face's layouts do."""
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def causal_mask(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """True where a query (axis 1) sees a source (axis 2): not later, same segment, no padding."""
    index = jnp.arange(segment_ids.shape[1])
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same & (segment_ids[:, None, :] != 0) & (index[None, :, None] >= index[None, None, :])


def segment_positions(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Positions that start from 0 wherever the segment changes."""
    index = jnp.arange(segment_ids.shape[1])[None, :]
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    start = jnp.where(segment_ids != before, index, 0)
    return index - jax.lax.cummax(start, axis=1)


def attend(q: Float[Array, "B T K G C"], k, v, mask: Bool[Array, "B T S"]):
    """Softmax attention in plain XLA; k, v are [B, K, S, C]. Returns [B, T, K, G, C].

    A row whose sources are all masked (padding) gets a finite mean of the values; nobody reads it.
    """
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("btkgc,bksc->bkgts", q * scale, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, NEGATIVE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bksc->btkgc", weights, v)


def attend_cached(q: Float[Array, "B 1 K G C"], k, v, valid: Bool[Array, "B S"]):
    """Attention of one token over the cache: k [B, K, C, S], v [B, K, S, C]."""
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bkgc,bkcs->bkgs", q[:, 0] * scale, k, preferred_element_type=jnp.float32)
    scores = jnp.where(valid[:, None, None], scores, NEGATIVE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgs,bksc->bkgc", weights, v)[:, None]


def written(cache: Array, new: Array, step: Int[Array, ""], axis: int) -> Array:
    """`cache` with `new` at index `step` of `axis`."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), step, axis)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, state, tokens, positions, segment_ids, adapter_ids):
    return nnx.merge(graphdef, state)(tokens, positions, segment_ids, None, adapter_ids)


def logits(model: Decoder, tokens, segment_ids=None, positions=None, adapter_ids=None):
    """Compiled forward pass: float32 logits [B, T, V] of tokens [B, T]."""
    graphdef, state = nnx.split(model)
    return _logits(graphdef, state, tokens, positions, segment_ids, adapter_ids)
