"""Self-attention of whole rows: one interface, several implementations, equal gradients.

What a query sees is one array: source s is seen by the queries s <= q < ends[s] (ends 0: by none).
A packed item is ends = end of the item. A tree in depth-first order is: a trunk's tokens have
ends = end of the whole tree, a branch's tokens ends = end of that branch.

| kind | runs on | memory for scores | notes |
|---|---|---|---|
| plain | all | T x S | the definition |
| chunked | all | chunk x S | own backward pass; sources after a band of queries are skipped |
| splash | TPU | none | Pallas kernel; segments only, no trees |
| cudnn | NVIDIA | T x S of the mask, 2 bytes each | jax.nn.dot_product_attention; bfloat16/float16 |

Axes: B batch, T time, S source positions (= T), K kv heads, G query heads a kv head, C head_dim;
for chunks: P shards of the time axis, N chunks of a shard, Q queries of a chunk.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from automem_jax import sharding

KINDS = ("auto", "plain", "chunked", "splash", "cudnn")
NEGATIVE = -1e30
BANDS = 4  # causal halves, quarters ...: with 4 bands 5/8 of all products are computed
CPU_BANDS = 8  # a band of one chunk is no loop: on CPUs such bands run side by side,
CPU_BANDED = 2048  # each with its scores in memory, so in short rows only
SPLASH_BLOCK = 512
SAVED = "attention"  # name of output and softmax sums for remat policies


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Visible:
    """What each query sees.

    Attributes:
      ends: source s is seen by the queries s <= q < ends[s]; 0 for padding.
      nested: whether a row may hold trees. False: every token's ends is the end of its own
        segment, which is all that splash can do.
      bias: the same as a summand of the scores, one a band of queries, where `prepared` made it: 0
        or very low.
    """

    ends: Int[Array, "B S"]
    nested: bool = dataclasses.field(default=True, metadata={"static": True})
    bias: tuple[Float[Array, "B 1 Q S"], ...] = ()

    @classmethod
    def of_segments(cls, segment_ids: Int[Array, "B S"]) -> Visible:
        """Each token sees what is before it in its own segment; segments are contiguous, 0 is padding."""
        return cls(segment_ends(segment_ids), nested=False)


def segment_ends(segment_ids: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """The index after each token's segment; 0 for padding (segment 0)."""
    size = segment_ids.shape[1]
    index = jnp.arange(1, size + 1, dtype=jnp.int32)[None, :]
    after = jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    last = jnp.where(segment_ids != after, index, size)
    ends = jax.lax.cummin(last, axis=1, reverse=True)
    return jnp.where(segment_ids == 0, 0, ends)


def attend(
    q: Float[Array, "B T K G C"],
    k: Float[Array, "B K S C"],
    v: Float[Array, "B K S C"],
    *,
    visible: Visible,
    kind: str = "auto",
    chunk: int = 0,
) -> Float[Array, "B T K G C"]:
    """Softmax attention of q over what it sees; scores are scaled by C ** -0.5.

    A query that sees nothing (padding) gets some finite vector; nobody reads it.

    Args:
      kind: one of KINDS; "auto" picks by backend, type and shape.
      chunk: queries of a chunk for "chunked"; 0: chosen by shape.

    Raises:
      ValueError: an unknown kind, or one that cannot do what is asked.
    """
    if kind == "auto":
        kind = choose_kind(q, visible)
    if kind not in KINDS:
        raise ValueError(f"attention {kind!r} unknown; one of {', '.join(KINDS)}")
    shape = q.shape
    q, k, v = _divided_heads(q, k, v)
    if kind == "plain":
        out = plain(q, k, v, mask_of(visible.ends, 0, shape[1]))
    elif kind == "chunked":
        out = chunked(q, k, v, visible.ends, chunk)
    elif kind == "splash":
        out = splash(q, k, v, visible)
    else:
        out = cudnn(q, k, v, visible)
    return out.reshape(shape)


def choose_kind(q: Float[Array, "B T K G C"], visible: Visible) -> str:
    """What "auto" means for these shapes on the default backend (or the mesh's own devices)."""
    length, half = q.shape[1], q.dtype in (jnp.bfloat16, jnp.float16)
    platform = sharding.platform()
    if platform == "tpu" and not visible.nested and _splash_fits(q) is None:
        return "splash"
    if platform in ("gpu", "cuda") and half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128:
        return "cudnn"
    return "plain" if length <= 256 else "chunked"


def prepared(visible: Visible, q: jax.ShapeDtypeStruct, kind: str) -> Visible:
    """`visible` with what every layer would otherwise make and keep for itself.

    Args:
      q: shape [B, T, K, G, C] and dtype of the queries to come.
      kind: as for `attend`.
    """
    if (choose_kind(q, visible) if kind == "auto" else kind) != "cudnn":
        return visible
    length = q.shape[1]
    # Bands keep the bias, and the gradient of it that cuDNN writes, small.
    whole = length < 4096 or length % (128 * BANDS) or sharding.axis_size("time", length) > 1
    bands = 1 if whole else BANDS
    width = length // bands
    low = -(2.0**41) if q.dtype == jnp.bfloat16 else -(2.0**15)  # cuDNN errs on lower ones

    def bias_of(band: int) -> Array:
        mask = mask_of(visible.ends[:, : (band + 1) * width], band * width, width)[:, None]
        bias = jnp.where(mask, jnp.zeros((), q.dtype), jnp.asarray(low, q.dtype))
        return jax.lax.stop_gradient(sharding.constrain(bias, ("batch", None, "time", None)))

    return dataclasses.replace(visible, bias=tuple(map(bias_of, range(bands))))


def mask_of(ends: Int[Array, "B S"], start: int | Array, queries: int) -> Bool[Array, "B Q S"]:
    """True where a query start .. start + queries - 1 (axis 1) sees a source (axis 2)."""
    query = (start + jnp.arange(queries, dtype=jnp.int32))[None, :, None]
    source = jnp.arange(ends.shape[1], dtype=jnp.int32)[None, None, :]
    return (source <= query) & (query < ends[:, None, :])


def plain(q, k, v, mask: Bool[Array, "B T S"]) -> Float[Array, "B T K G C"]:
    """Softmax attention under a whole mask."""
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("btkgc,bksc->bkgts", q * scale, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, NEGATIVE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bksc->btkgc", weights, v)


# Chunked ------------------------------------------------------------------------------------------


def chunked(q, k, v, ends: Int[Array, "B S"], chunk: int = 0) -> Float[Array, "B T K G C"]:
    """Attention over chunks of queries; the backward pass computes each chunk's weights again.

    Under a sharded time axis every device walks through chunks of its own part.
    """
    b, t, kv, g, c = q.shape
    shards = sharding.axis_size("time", t)
    bands = CPU_BANDS if sharding.platform() == "cpu" and t <= CPU_BANDED else BANDS
    bands = bands if shards == 1 and t >= 2 * bands else 1
    chunk = chunk or (128 if t <= 4096 else 512)
    chunk = min(chunk, -(-t // (shards * bands)))
    steps = -(-t // (shards * bands * chunk))
    padded = shards * bands * steps * chunk
    q = jnp.pad(q, ((0, 0), (0, padded - t), (0, 0), (0, 0), (0, 0)))
    q = q.reshape(b, shards, bands * steps, chunk, kv, g, c).transpose(2, 0, 4, 5, 1, 3, 6)
    out = _chunked(q, k, v, ends, bands)
    return out.transpose(1, 4, 0, 5, 2, 3, 6).reshape(b, padded, kv, g, c)[:, :t]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(q: Float[Array, "N B K G P Q C"], k, v, ends, bands):
    return _chunked_forward(q, k, v, ends, bands)[0]


def _chunked_forward(q, k, v, ends, bands):
    # Tied to the queries: else every chunk's mask is made once for all layers, and kept.
    ends, q = jax.lax.optimization_barrier((ends, q))
    outs, sums = [], []
    for chunks, size, first in _bands(q.shape, ends.shape[1], bands):

        def one(_, step, size=size):
            chunk, index = step
            scores = _chunk_scores(chunk, k[:, :, :size], ends[:, :size], index, q.shape)
            top = jnp.max(scores, axis=-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            out = jnp.einsum(
                "bkgpqs,bksc->bkgpqc",
                weights.astype(v.dtype),
                v[:, :, :size],
                preferred_element_type=jnp.float32,
            )
            return None, ((out / total).astype(v.dtype), (top + jnp.log(total))[..., 0])

        steps = q[chunks], first + jnp.arange(chunks.stop - chunks.start)
        _, (out, logsum) = jax.lax.scan(one, None, steps)
        outs.append(out)
        sums.append(logsum)
    out = checkpoint_name(jnp.concatenate(outs), SAVED)
    logsum = checkpoint_name(jnp.concatenate(sums), SAVED)
    return out, (q, k, v, ends, out, logsum)


def _chunked_backward(bands, saved, d_out):
    q, k, v, ends, out, logsum = saved
    ends, d_out = jax.lax.optimization_barrier((ends, d_out))
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    shards = q.shape[4]
    d_k = jnp.zeros((k.shape[0], shards, k.shape[1], k.shape[3], k.shape[2]), jnp.float32)
    d_v, d_qs = d_k, []
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scale = q.shape[-1] ** -0.5
    for chunks, size, first in _bands(q.shape, ends.shape[1], bands):
        near_k, near_v = k[:, :, :size], v[:, :, :size]

        def one(sums, step, near_k=near_k, near_v=near_v, size=size):
            d_k, d_v = sums
            chunk, d_chunk, logsum, delta, index = step
            scores = _chunk_scores(chunk, near_k, ends[:, :size], index, q.shape)
            weights = jnp.exp(scores - logsum[..., None])
            d_weights = product("bkgpqc,bksc->bkgpqs", d_chunk, near_v)
            d_scores = (weights * (d_weights - delta[..., None])).astype(k.dtype)
            d_q = product("bkgpqs,bksc->bkgpqc", d_scores, near_k) * scale
            # Thin factors first: a product over q has its first one transposed in memory on CPU.
            d_k += product("bkgpqc,bkgpqs->bpkcs", chunk * scale, d_scores)
            d_v += product("bkgpqc,bkgpqs->bpkcs", d_chunk, weights.astype(v.dtype))
            return (d_k, d_v), d_q.astype(q.dtype)

        index = first + jnp.arange(chunks.stop - chunks.start)
        steps = q[chunks], d_out[chunks], logsum[chunks], delta[chunks], index
        start = d_k[..., :size], d_v[..., :size]
        (near_dk, near_dv), d_q = jax.lax.scan(one, start, steps)
        d_k = d_k.at[..., :size].set(near_dk)
        d_v = d_v.at[..., :size].set(near_dv)
        d_qs.append(d_q)
    d_q = jnp.concatenate(d_qs)
    # Summed over the shards of time once, not in every chunk.
    d_k, d_v = (d.sum(1).swapaxes(2, 3) for d in (d_k, d_v))
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _bands(shape, sources: int, bands: int) -> list[tuple[slice, int, int]]:
    """(chunks, how many sources they can see at most, index of the first chunk) of each band."""
    steps = shape[0] // bands
    width = steps * shape[5]
    sizes = [min(sources, (band + 1) * width) if bands > 1 else sources for band in range(bands)]
    return [
        (slice(band * steps, (band + 1) * steps), size, band * steps)
        for band, size in enumerate(sizes)
    ]


def _chunk_scores(chunk, k, ends, index, shape) -> Float[Array, "B K G P Q S"]:
    """Masked float32 scores of chunk `index` of every shard."""
    steps, shards, queries = shape[0], shape[4], shape[5]
    first = (jnp.arange(shards, dtype=jnp.int32) * steps + index) * queries
    query = (first[:, None] + jnp.arange(queries, dtype=jnp.int32))[None, :, :, None]
    source = jnp.arange(k.shape[2], dtype=jnp.int32)
    mask = (source <= query) & (query < ends[:, None, None, :])
    scores = jnp.einsum(
        "bkgpqc,bksc->bkgpqs",
        chunk * chunk.shape[-1] ** -0.5,
        k,
        preferred_element_type=jnp.float32,
    )
    return jnp.where(mask[:, None, None], scores, NEGATIVE)


# Fused kernels ------------------------------------------------------------------------------------


def splash(q, k, v, visible: Visible, interpret: bool | None = None) -> Array:
    """The Pallas kernel of TPUs (interpreted elsewhere: for tests).

    Raises:
      ValueError: rows may hold trees, or a shape that the kernel does not take.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if visible.nested:
        raise ValueError("splash attention knows segments, not trees; use attention 'chunked'")
    problem = _splash_fits(q)
    if problem:
        raise ValueError(f"splash attention: {problem}; use attention 'chunked'")
    b, t, kv, g, c = q.shape
    mesh = jax.sharding.get_abstract_mesh()
    q_axes = sharding.activation_spec(("batch", "act_kv_heads", "time", None), (b, kv, t, c))
    k_axes = sharding.activation_spec(("batch", "act_kv_heads", None, None), (b, kv, t, c))
    heads_axis, time_axis = q_axes[1], q_axes[2]
    block = min(SPLASH_BLOCK, t // sharding.axis_size("time", t))
    sizes = kernels.BlockSizes(**{name: block for name in _SPLASH_BLOCKS})
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((t, t))] * (kv * g)),
        block_sizes=sizes,
        head_shards=sharding.axis_size("act_kv_heads", kv),
        q_seq_shards=sharding.axis_size("time", t),
        residual_checkpoint_name=SAVED,
        interpret=sharding.platform() != "tpu" if interpret is None else interpret,
    )
    q = (q * c**-0.5).transpose(0, 2, 3, 1, 4).reshape(b, kv * g, t, c)

    def run(kernel, q, k, v, q_ids, kv_ids):
        ids = kernels.SegmentIds(q_ids, kv_ids)
        return jax.vmap(kernel)(q, k, v, ids)

    if not mesh.empty:
        concrete = jax.sharding.NamedSharding(mesh, PartitionSpec(heads_axis, time_axis))
        rows = q_axes[0]
        run = jax.shard_map(
            run,
            in_specs=(
                kernel.manual_sharding_spec(concrete),
                q_axes,
                k_axes,
                k_axes,
                PartitionSpec(rows, time_axis),
                PartitionSpec(rows, None),
            ),
            out_specs=q_axes,
            check_vma=False,
        )
    # The end of a segment names it, so `ends` are segment ids.
    out = run(kernel, q, k, v, visible.ends, visible.ends)
    return out.reshape(b, kv, g, t, c).transpose(0, 3, 1, 2, 4)


_SPLASH_BLOCKS = (
    "block_q",
    "block_kv",
    "block_kv_compute",
    "block_q_dkv",
    "block_kv_dkv",
    "block_kv_dkv_compute",
    "block_q_dq",
    "block_kv_dq",
)


def _splash_fits(q) -> str | None:
    """Why the kernel does not take these shapes; None where it does."""
    _, t, _, _, c = q.shape
    part = t // sharding.axis_size("time", t)
    if part % 128 or (part > SPLASH_BLOCK and part % SPLASH_BLOCK):
        return f"{part} tokens a shard are no multiple of 128 (above {SPLASH_BLOCK}: of it)"
    return f"head_dim {c} is no multiple of 64" if c % 64 else None


def cudnn(q, k, v, visible: Visible) -> Array:
    """cuDNN's fused attention, with what is visible as a bias [B, 1, T, S].

    Raises:
      ValueError: float32 arrays, which cuDNN does not take.
    """
    b, t, kv, g, c = q.shape
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"cuDNN attention takes bfloat16 or float16, got {q.dtype}")
    if not visible.bias:
        visible = prepared(visible, q, "cudnn")
    whole_q, k, v = q.reshape(b, t, kv * g, c), k.swapaxes(1, 2), v.swapaxes(1, 2)
    outs, width = [], t // len(visible.bias)
    for band, bias in enumerate(visible.bias):
        seen = slice(0, (band + 1) * width)
        outs.append(
            jax.nn.dot_product_attention(
                whole_q[:, band * width : (band + 1) * width],
                k[:, seen],
                v[:, seen],
                bias=bias,
                implementation="cudnn",
            )
        )
    out = jnp.concatenate(outs, axis=1) if len(outs) > 1 else outs[0]
    return checkpoint_name(out, SAVED).reshape(q.shape)


def _divided_heads(q, k, v):
    """Repeats kv heads where the tensor axis would not divide them but divides the query heads."""
    b, t, kv, g, c = q.shape
    ways = sharding.mesh_axis_size(sharding.DEFAULT_RULES.act_kv_heads)
    times = int(np.lcm(kv, ways)) // kv
    if times == 1 or g % times:
        return q, k, v
    q = q.reshape(b, t, kv * times, g // times, c)
    return q, jnp.repeat(k, times, axis=1), jnp.repeat(v, times, axis=1)
