import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automem_jax.models import attention
from automem_jax.models.attention import Visible, attend


def tensors(length, head_dim=16, kv=2, group=3, rows=2, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(length), 4)
    q = jax.random.normal(keys[0], (rows, length, kv, group, head_dim), dtype)
    k, v = (jax.random.normal(key, (rows, kv, length, head_dim), dtype) for key in keys[1:3])
    return q, k, v, jax.random.normal(keys[3], q.shape, dtype)


def segments(length):
    """Three items, padding before the first of row 0 and after the last of row 1."""
    third = length // 3
    ids = np.repeat([[1, 2, 3]], third, axis=1)
    ids = np.concatenate([ids, np.full((1, length - 3 * third), 3)], 1)
    ids = np.concatenate([ids, ids])
    ids[0, :5] = 0
    ids[1, -7:] = 0
    return ids


def by_definition(q, k, v, sees):
    """sees [B, T, S] -> attention as the textbook has it, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("btkgc,bksc->bkgts", q, k) / q.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * sees[:, None, None]
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    return np.einsum("bkgts,bksc->btkgc", weights, v)


def same_segment(ids):
    length = ids.shape[1]
    causal = np.tril(np.ones((length, length), bool))
    return causal & (ids[:, :, None] == ids[:, None, :]) & (ids[:, None, :] > 0)


def results(kind, visible, q, k, v, cotangent, real, **options):
    """Output and gradients of q, k, v; queries that see nothing count for nothing."""

    def run(q, k, v):
        out = attend(q, k, v, visible=visible, kind=kind, **options)
        return jnp.where(real[:, :, None, None, None], out, 0.0)

    out, back = jax.vjp(jax.jit(run), q, k, v)
    return [np.asarray(x, np.float32) for x in (out, *back(cotangent))]


def test_ends_of_segments():
    ends = attention.segment_ends(jnp.array([[0, 0, 1, 1, 2, 2, 2, 0], [3, 1, 1, 1, 1, 1, 1, 1]]))
    np.testing.assert_array_equal(ends, [[0, 0, 4, 4, 7, 7, 7, 0], [1, 8, 8, 8, 8, 8, 8, 8]])


@pytest.mark.parametrize("kind, chunk", [("plain", 0), ("chunked", 0), ("chunked", 7)])
@pytest.mark.parametrize("length", [2, 45, 131])
def test_packed_rows_follow_the_definition(kind, chunk, length):
    q, k, v, cotangent = tensors(length)
    ids = segments(length) if length > 20 else np.ones((2, length), np.int32)
    sees = same_segment(ids)
    visible = Visible.of_segments(jnp.asarray(ids))
    ours = results(kind, visible, q, k, v, cotangent, ids > 0, chunk=chunk)
    expected = by_definition(q, k, v, sees)
    np.testing.assert_allclose(ours[0][ids > 0], expected[ids > 0], atol=2e-6)
    plain = results("plain", visible, q, k, v, cotangent, ids > 0)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "chunked"])
def test_branches_of_a_tree_see_the_trunk_and_themselves(kind):
    """Trunk 0..9, branch 10..19 with twigs 14..16 and 17..19, branch 20..27, padding 28..29."""
    q, k, v, cotangent = tensors(30, rows=1)
    ends = np.array([[28] * 10 + [20] * 4 + [17] * 3 + [20] * 3 + [28] * 8 + [0] * 2])
    parents = {0: range(0, 10), 10: range(10, 14), 14: range(14, 17), 17: range(17, 20)}
    paths = [(0, 10, 14), (0, 10, 17), (0, 20)]
    parents[20] = range(20, 28)
    sees = np.zeros((1, 30, 30), bool)
    for path in paths:
        tokens = [token for node in path for token in parents[node]]
        for place, token in enumerate(tokens):
            sees[0, token, tokens[: place + 1]] = True
    ours = results(kind, Visible(jnp.asarray(ends)), q, k, v, cotangent, ends > 0, chunk=4)
    np.testing.assert_allclose(ours[0][ends > 0], by_definition(q, k, v, sees)[ends > 0], atol=2e-6)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_splash_equals_plain_with_its_gradients(head_dim):
    q, k, v, cotangent = tensors(256, head_dim, rows=2)
    ids = segments(256)
    visible = Visible.of_segments(jnp.asarray(ids))
    plain, ours = (
        results(kind, visible, q, k, v, cotangent, ids > 0) for kind in ("plain", "splash")
    )
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bfloat16_sums_over_chunks_in_float32():
    q, k, v, cotangent = tensors(512, dtype=jnp.bfloat16)
    visible = Visible(jnp.full((2, 512), 512))
    real = np.ones((2, 512), bool)
    few, many = (
        results("chunked", visible, q, k, v, cotangent, real, chunk=chunk) for chunk in (128, 4)
    )
    for a, b in zip(few, many, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2 * np.abs(a).max())


def test_scores_are_never_whole():
    q, k, v, cotangent = tensors(2048, 8, 1, 1, rows=1)
    visible = Visible(jnp.full((1, 2048), 2048))

    def loss(kind, q, k, v):
        return jnp.sum(attend(q, k, v, visible=visible, kind=kind) * cotangent)

    sizes = {}
    for kind in ("plain", "chunked"):
        grad = jax.jit(jax.grad(functools.partial(loss, kind), (0, 1, 2)))
        sizes[kind] = grad.lower(q, k, v).compile().memory_analysis().temp_size_in_bytes
    assert sizes["chunked"] < sizes["plain"] / 3


def test_what_a_kind_cannot_do_is_refused():
    q, k, v, _ = tensors(128, 64)
    tree = Visible(jnp.full((2, 128), 128))
    flat = Visible.of_segments(jnp.ones((2, 128), jnp.int32))
    with pytest.raises(ValueError, match="not trees"):
        attend(q, k, v, visible=tree, kind="splash")
    with pytest.raises(ValueError, match="multiple of 128"):
        attend(*tensors(100, 64)[:3], visible=flat, kind="splash")
    with pytest.raises(ValueError, match="float32"):
        attend(q, k, v, visible=flat, kind="cudnn")
    with pytest.raises(ValueError, match="'flash' unknown"):
        attend(q, k, v, visible=flat, kind="flash")
