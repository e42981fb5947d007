"""Attention over blocks against plain attention, in both ways of holding them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from models.tiny import tiny_decoder

from automem_jax.models import paged_cache
from automem_jax.models.attention import mask_of, plain
from automem_jax.models.paged_cache import (
    attend_blocks,
    attend_one,
    empty_paged_cache,
    with_blocks,
    with_tokens,
)

BLOCK, BLOCKS, HEADS, GROUPS, WIDTH = 32, 9, 2, 3, 128


def filled(joined, int8=False):
    """Pages with three rows in scattered blocks, their tables, keys and values [P, K, S, C]."""
    config = dataclasses.replace(
        tiny_decoder().config, num_layers=2, num_kv_heads=HEADS, head_dim=WIDTH
    )
    pages = empty_paged_cache(config, BLOCKS, BLOCK, int8=int8, joined=joined)[0]
    tables = np.zeros((3, pages.part // BLOCK), np.int32)
    tables[0, :4], tables[1, :2], tables[2, :1] = [7, 2, 8, 1], [3, 6], [5]
    first = BLOCKS if joined else 0  # the second layer's, or a layer of its own
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 3, HEADS, 4 * BLOCK, WIDTH)).astype(np.float32)
    for row, count in enumerate((4, 2, 1)):
        cut = [
            jnp.asarray(x[row, :, : count * BLOCK].reshape(HEADS, count, BLOCK, WIDTH))
            for x in (k, v)
        ]
        pages = with_blocks(pages, jnp.asarray(tables[row, :count] + first), *cut)
    return pages, jnp.asarray(tables + first), k, v


def expected(q, k, v, positions):
    """q [P, 1, K, G, C] over each row's tokens up to its position."""
    outs = []
    for row, position in enumerate(positions):
        seen = slice(0, int(position) + 1)
        mask = mask_of(jnp.full((1, int(position) + 1), int(position) + 1), int(position), 1)
        outs.append(plain(q[row][None], k[row][None, :, seen], v[row][None, :, seen], mask)[0])
    return np.stack(outs)


POSITIONS = np.array([99, 60, 6], np.int32)
QUERY = np.random.default_rng(1).normal(size=(3, 1, HEADS, GROUPS, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(("joined", "int8"), [(False, False), (True, False), (True, True)])
def test_attention_over_blocks_equals_plain_attention(joined, int8):
    pages, tables, k, v = filled(joined, int8)
    out = attend_blocks(QUERY, pages, tables, POSITIONS, jnp.int32(1))
    atol = 5e-2 if int8 else 1e-5
    np.testing.assert_allclose(out, expected(QUERY, k, v, POSITIONS), atol=atol)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_token_is_written_where_it_belongs(one_by_one, monkeypatch):
    monkeypatch.setattr(paged_cache, "one_by_one", lambda: one_by_one)
    pages, tables, k, v = filled(True)
    new = np.random.default_rng(2).normal(size=(2, HEADS, 3, WIDTH)).astype(np.float32)
    place = jnp.take_along_axis(tables, (POSITIONS // BLOCK)[:, None], 1)[:, 0]
    pages = with_tokens(pages, place, jnp.asarray(POSITIONS % BLOCK), *new)
    for row, position in enumerate(POSITIONS):
        k[row, :, position], v[row, :, position] = new[0, :, row], new[1, :, row]
    out = attend_one(QUERY, pages, tables, POSITIONS, jnp.int32(1))
    np.testing.assert_allclose(out, expected(QUERY, k, v, POSITIONS), atol=1e-5)


def test_the_tpu_kernel_equals_plain_attention():
    """Interpreted: the kernel itself runs on TPU alone. It rounds keys and values to bfloat16."""
    pages, tables, k, v = filled(True)
    with pltpu.force_tpu_interpret_mode():
        out = jax.jit(attend_one, static_argnums=5)(
            QUERY, pages, tables[:, :4], POSITIONS, jnp.int32(1), "pallas"
        )
    np.testing.assert_allclose(out, expected(QUERY, k, v, POSITIONS), atol=1e-2)
