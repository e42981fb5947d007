"""The decoder in Flax NNX: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Families Qwen2/Qwen2.5, Qwen3 and Llama (configs choose biases, norms and tied head). Layers are
stacked on a leading axis and run by one scan.

Axes: B batch, T time, S source positions, L layers, H query heads, K kv heads, G = H / K,
C head_dim, D model, F ffn, V vocab, N adapters, R rank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from automem_jax.models.attention import Visible, attend, prepared
from automem_jax.models.config import DecoderConfig, RopeScaling
from automem_jax.models.low_rank import merged_product, thin_product
from automem_jax.models.quantize import dequantize
from automem_jax.models.settings import LAYER_INPUT, PROJECTED, Dropout, Settings, rematerialized
from automem_jax.sharding import axis_size, constrain

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RESIDUAL = ("batch", "residual_time", "act_embed")
# (q [B, T, K, G, C], k and v [B, K, T, C] of the new tokens) -> (attended [B, T, K, G, C], what the
# cache holds then: two pytrees). Queries are not scaled yet.
CachedAttention = Callable[[Array, Array, Array], tuple[Array, tuple[Any, Any]]]


class BaseWeight(nnx.Variable):
    """A weight of the base model. Not an nnx.Param, so a filter for adapters never catches it."""


class Linear(nnx.Module):
    """L stacked projections x @ kernel (+ bias) (+ the adapter that each row chose).

    `kernel` [L, in, out] is None in a quantised base: `codes` and `scales` stand for it (see
    `quantize`). `lora_a` [L, N, in, R] and `lora_b` [L, N, R, out] are None until adapters are added.
    """

    def __init__(self, layers, inputs, outputs, axes, *, bias, scale, dtype, rngs):
        shape = (layers, inputs, outputs)
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32) * scale
        self.shape, self.axes = shape, axes
        self.kernel: BaseWeight | None = nnx.data(
            BaseWeight(kernel.astype(dtype), axes=("layers", *axes))
        )
        self.codes: BaseWeight | None = nnx.data(None)
        self.scales: BaseWeight | None = nnx.data(None)
        zeros = functools.partial(jnp.zeros, (layers, outputs), dtype)
        self.bias = BaseWeight(zeros(), axes=("layers", axes[1])) if bias else None
        self.lora_a: nnx.LoRAParam | None = nnx.data(None)
        self.lora_b: nnx.LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0
        self.lora_dropout = 0.0

    def __call__(
        self,
        x: Float[Array, "B T I"],
        chosen: Float[Array, "B N"] | int | None,
        dropout: Dropout | None = None,
        arrays: tuple[Array | None, ...] | None = None,
    ):
        """`arrays` is what `gathered` gave, where this is called in a loop."""
        if chosen is not None and self.lora_a is not None and self.lora_a[...].ndim == 2:
            return self._with_joined_adapters(x, chosen)
        kernel, a, b = arrays or (self.weight(x.dtype), *self._adapters())
        if chosen is None or a is None:
            return self._with_bias(x @ kernel)
        drops = dropout is not None and self.lora_dropout
        one = isinstance(chosen, int)
        if one and not drops and self.kernel is not None and x.dtype == jnp.float32:
            own = a[chosen - 1], b[chosen - 1]
            return self._with_bias(merged_product(x, kernel, *own, self.lora_scale))
        out = self._with_bias(x @ kernel)
        if drops:
            x = dropout.applied(x, self.lora_dropout)
        if one:
            own = a[chosen - 1].astype(x.dtype), b[chosen - 1].astype(x.dtype)
            return out + thin_product(x, *own, self.lora_scale)
        low = jnp.einsum("bti,nir->btnr", x, a.astype(x.dtype))
        low = low * (chosen * self.lora_scale)[:, None, :, None].astype(x.dtype)
        return out + jnp.einsum("btnr,nro->bto", low, b.astype(x.dtype))

    def _with_joined_adapters(self, x: Float[Array, "B T I"], chosen: Float[Array, "B M"]):
        """For adapters side by side, `lora_a` [I, M] and `lora_b` [M, O] with the scales in it, M = N R.

        `chosen` has one in the columns of the row's adapter: two plain products, nothing transposed.
        """
        out = self._with_bias(x @ self.weight(x.dtype))
        low = (x @ self.lora_a[...].astype(x.dtype)) * chosen[:, None].astype(x.dtype)
        return out + low @ self.lora_b[...].astype(x.dtype)

    def gathered(self, dtype) -> tuple[Array | None, ...]:
        """Kernel and adapters whole along the axis that fsdp divides: once, not in every turn of a loop."""
        kernel = constrain(self.weight(dtype), _whole(self.axes))
        a, b = self._adapters()
        if a is None:
            return kernel, None, None
        axes = [v.get_metadata()["axes"][1:] for v in (self.lora_a, self.lora_b)]
        return kernel, constrain(a, _whole(axes[0])), constrain(b, _whole(axes[1]))

    def _adapters(self) -> tuple[Array | None, Array | None]:
        """A and B, pinned, so that their gradients are reduced to the shards that the optimizer holds."""
        if self.lora_a is None:
            return None, None
        return tuple(
            constrain(variable[...], variable.get_metadata()["axes"][1:])
            for variable in (self.lora_a, self.lora_b)
        )

    def _with_bias(self, out: Array) -> Array:
        return out if self.bias is None else out + self.bias[...]

    def weight(self, dtype) -> Array:
        """The kernel of one layer (or all) in `dtype`, dequantised where it is quantised."""
        if self.kernel is not None:
            return self.kernel[...]
        return dequantize(self.codes[...], self.scales[...], dtype)


def _whole(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    return tuple(None if axis == "embed" else axis for axis in axes)


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

    def __call__(
        self,
        x: Float[Array, "B T D"],
        rotation,
        visible,
        chosen,
        cached: CachedAttention | None = None,
        dropout: Dropout | None = None,
        settings: Settings = Settings(),  # noqa: B008 (frozen)
    ):
        """One layer: (new residual stream, (keys, values)).

        Without `cached`, tokens attend to each other as `visible` (a Visible) says, and keys and values
        of the tokens in `x` come back, both [B, K, T, C]. With it, it attends, and what it returns
        comes back.
        """
        c = self.config
        b, t, _ = x.shape
        chunk = settings.mlp_chunk
        arrays = dict.fromkeys(PROJECTIONS)
        if chunk > 0 and cached is None:
            arrays = {name: getattr(self, name).gathered(x.dtype) for name in PROJECTIONS}

        def project(x, at):
            drop = _dropout_of(dropout, at)
            h = constrain(self.attention_norm(x), ("batch", "time", "act_embed"))
            names = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
            heads = [
                getattr(self, name)(h, chosen, drop(short), arrays[name])
                for short, name in names.items()
            ]
            return [constrain(head, ("batch", "time", "act_heads")) for head in heads]

        q, k, v = by_chunks(project, x, chunk, RESIDUAL)
        q = q.reshape(b, t, c.num_heads, c.head_dim)
        k, v = (head.reshape(b, t, c.num_kv_heads, c.head_dim) for head in (k, v))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q = constrain(rotate(q, rotation), ("batch", "time", "act_heads", None))
        k, v = rotate(k, rotation).swapaxes(1, 2), v.swapaxes(1, 2)
        q = q.reshape(b, t, c.num_kv_heads, c.num_heads // c.num_kv_heads, c.head_dim)
        if cached is None:
            q, k, v = (checkpoint_name(x, PROJECTED) for x in (q, k, v))
            k, v = (constrain(s, ("batch", "act_kv_heads", None, None)) for s in (k, v))
            how = {"kind": settings.attention, "chunk": settings.attention_chunk}
            attended = attend(q, k, v, visible=visible, **how)
        else:
            attended, (k, v) = cached(q, k, v)
        attended = attended.reshape(b, t, c.num_heads * c.head_dim)
        attended = constrain(attended, ("batch", "time", "act_heads"))

        def output(attended, at):
            drop = _dropout_of(dropout, at)
            out = self.o_proj(attended, chosen, drop("o"), arrays["o_proj"])
            return constrain(out, RESIDUAL)

        def feed_forward(x, at):
            drop = _dropout_of(dropout, at)
            h = constrain(self.mlp_norm(x), ("batch", "time", "act_embed"))
            gate = self.gate_proj(h, chosen, drop("gate"), arrays["gate_proj"])
            up = self.up_proj(h, chosen, drop("up"), arrays["up_proj"])
            gate, up = (checkpoint_name(product, PROJECTED) for product in (gate, up))
            h = constrain(jax.nn.silu(gate) * up, ("batch", "time", "act_mlp"))
            out = self.down_proj(h, chosen, drop("down"), arrays["down_proj"])
            return constrain(out, RESIDUAL)

        x = x + by_chunks(output, attended, chunk, ("batch", "time", "act_heads"))
        x = checkpoint_name(constrain(x, RESIDUAL), PROJECTED)
        x = constrain(x + by_chunks(feed_forward, x, chunk, RESIDUAL), RESIDUAL)
        return x, (k, v)


def by_chunks(run, x: Float[Array, "B T I"], chunk: int, axes: tuple[str | None, ...]):
    """run(x, places in the row or None), over at most `chunk` tokens at a time (-1: all at once).

    Parts are recomputed in the backward pass, so that what `run` makes on its way never exists whole.
    `axes` are x's logical axes; `run` gives one or several arrays [B, T', O] for the T' tokens it got.
    """
    b, t, d = x.shape
    shards = axis_size("residual_time", t)
    fewest = -(-t // chunk) if chunk > 0 else 1
    count = next((n for n in range(fewest, 2 * fewest) if t % (n * shards) == 0), 1)
    if count == 1:
        return run(x, None)
    # Each shard of time gives a part to every chunk, so that no device waits for another.
    width = t // count // shards
    parts = x.reshape(b, shards, count, width, d).transpose(2, 0, 1, 3, 4)
    parts = constrain(parts.reshape(count, b, shards * width, d), (None, *axes))
    at = jnp.arange(t).reshape(shards, count, width).swapaxes(0, 1).reshape(count, -1)
    run = jax.checkpoint(run, prevent_cse=False)
    outs = jax.lax.map(lambda part: run(*part), (parts, at))

    def joined(out):
        out = out.reshape(count, b, shards, width, out.shape[-1])
        return out.transpose(1, 2, 0, 3, 4).reshape(b, t, out.shape[-1])

    return jax.tree.map(joined, outs)


class Decoder(nnx.Module):
    """A causal language model: tokens [B, T] in, float32 logits [B, T, V] out.

    Args:
      config: shapes.
      rngs: stream `params` initialises weights (normal 0.02, residual outputs scaled down).
      dtype: of weights and activations; norms, softmax and logits are float32.
      settings: how it is computed (not what); may be replaced at any time.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        settings: Settings = Settings(),  # noqa: B008 (frozen)
    ):
        self.config = config
        self.settings = settings
        self.quantization: str | None = None
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
        adapter_ids: Int[Array, " B"] | None = None,
    ):
        """Logits [B, T, V].

        Args:
          tokens: ids, 0 .. V - 1.
          positions: rotary positions; by default they count from 0 in every segment.
          segment_ids: tokens attend within their own segment only; 0 is padding. Default: all 1.
          adapter_ids: adapter of each row, 0 = the base alone, i = adapter i (from 1). None: base.
        """
        hidden, _ = self.hidden(tokens, positions, segment_ids, adapter_ids)
        return self.unembed(hidden)

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        adapter_ids: Int[Array, " B"] | int | None = None,
        ends: Int[Array, "B T"] | None = None,
        *,
        nested: bool = True,
        dropout_key: Array | None = None,
        with_cache: bool = True,
    ):
        """Normalised last hidden states [B, T, D], and keys and values [L, B, K, T, C].

        Args:
          tokens, positions, segment_ids: as in a call.
          adapter_ids: as in a call, or one adapter of all rows, known at compile time (faster).
          ends: what each token is seen by (see `attention`), for rows that hold trees or items.
            Needs `positions`, takes the place of `segment_ids`.
          nested: whether rows given by `ends` may hold trees; False allows every fused kernel.
          dropout_key: switches the adapters' dropout on. The same key drops the same, on any mesh.
          with_cache: False leaves keys and values out (None in their place).

        Raises:
          ValueError: ends without positions, or together with segment_ids.
        """
        if ends is not None:
            if positions is None or segment_ids is not None:
                raise ValueError("ends needs positions, and takes the place of segment_ids")
            visible = Visible(ends, nested)
        else:
            if segment_ids is None:
                segment_ids = jnp.ones_like(tokens)
            if positions is None:
                positions = segment_positions(segment_ids)
            visible = Visible.of_segments(segment_ids)
        x, rotation, chosen = self._enter(tokens, positions, adapter_ids)
        graphdef, stacked = nnx.split(self.layers)
        settings = self.settings.resolved(tokens.shape[1])
        c, shape = self.config, tokens.shape
        groups = c.num_kv_heads, c.num_heads // c.num_kv_heads, c.head_dim
        queries = jax.ShapeDtypeStruct((*shape, *groups), x.dtype)
        visible = prepared(visible, queries, settings.attention)

        def body(x, state):
            state, key = state
            layer = nnx.merge(graphdef, state)
            drop = None if key is None else Dropout(key, jnp.arange(tokens.shape[1]))
            x = checkpoint_name(x, LAYER_INPUT)
            x, new = layer(x, rotation, visible, chosen, dropout=drop, settings=settings)
            return x, new if with_cache else None

        keys = None
        if dropout_key is not None:
            keys = jax.random.split(dropout_key, self.config.num_layers)
        x, new = jax.lax.scan(rematerialized(body, settings.remat), x, (stacked, keys))
        return self.final_norm(x), new

    def unstacked_layers(self) -> list[nnx.State]:
        """The state of each layer, sliced from the stack."""
        stacked = nnx.state(self.layers)
        take = lambda i: jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: E731
        return [take(i) for i in range(self.config.num_layers)]

    def linears(self) -> dict[str, Linear]:
        """The projections that adapters and quantisation know, by name."""
        return {name: getattr(self.layers, name) for name in PROJECTIONS}

    def unembed(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Float32 logits of hidden states."""
        head = self.embed[...].T if self.head is None else self.head[...]
        return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)

    def _enter(self, tokens, positions, adapter_ids):
        chosen = None
        if isinstance(adapter_ids, int):
            chosen = adapter_ids if self.adapter_count and adapter_ids else None
        elif adapter_ids is not None and self.adapter_count:
            chosen = jax.nn.one_hot(adapter_ids - 1, self.adapter_count, dtype=jnp.float32)
        rotation = rotation_of(positions, self.config)
        return constrain(self.embed[...][tokens], RESIDUAL), rotation, chosen


def _dropout_of(dropout: Dropout | None, at: Int[Array, " T"] | None):
    """The masks of a projection by its name, for tokens at these places; None: nothing drops."""
    return lambda name: None if dropout is None else dropout.of(name, at)


def rotation_of(positions: Int[Array, "B T"], config: DecoderConfig):
    """Cosines and sines [B, T, 1, C / 2], float32, of the rotary embedding at `positions`."""
    exponent = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    period = jnp.power(jnp.float32(config.rope_theta), exponent)
    if config.rope_scaling is not None:
        period = stretched(period, config.rope_scaling)
    angle = positions[..., None].astype(jnp.float32) / period
    return jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]


def stretched(period: Float[Array, " F"], scaling: RopeScaling) -> Float[Array, " F"]:
    """Rotary periods (tokens a radian) under a scaling.

    "llama3" as transformers has it: a blend by how often the wavelength fits the first context.
    """
    if scaling.kind == "linear":
        return period * scaling.factor
    turns = scaling.original_max_position / (2 * jnp.pi * period)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - kept) / (period * scaling.factor) + kept / period)


def rotate(x: Float[Array, "B T H C"], rotation) -> Float[Array, "B T H C"]:
    """Rotates the pair (first half, second half) of each head, as Hugging Face's layouts do."""
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def segment_positions(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Positions that start from 0 wherever the segment changes."""
    index = jnp.arange(segment_ids.shape[1])[None, :]
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    start = jnp.where(segment_ids != before, index, 0)
    return index - jax.lax.cummax(start, axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, state, tokens, positions, segment_ids, adapter_ids):
    return nnx.merge(graphdef, state)(tokens, positions, segment_ids, adapter_ids)


def logits(model: Decoder, tokens, segment_ids=None, positions=None, adapter_ids=None):
    """Compiled forward pass: float32 logits [B, T, V] of tokens [B, T]."""
    graphdef, state = nnx.split(model)
    return _logits(graphdef, state, tokens, positions, segment_ids, adapter_ids)
