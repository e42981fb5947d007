import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automem_jax.training.packing import Item, Prefixes, first_fit, pack_row, place, row_cost


def item(*ids, weights=None):
    weights = [0.0] + [1.0] * (len(ids) - 1) if weights is None else weights
    return Item(np.array(ids, np.int32), np.array(weights, np.float32))


def some_items(lengths, prefix=(), seed=0):
    source = np.random.default_rng(seed)
    return [item(*prefix, *source.integers(0, 50, n)) for n in lengths]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 4))
def test_first_fit_places_every_item_once_and_never_overfills(lengths, open_rows):
    rows = first_fit(lengths, 30, open_rows)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 30 for row in rows)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), max_size=40),
    st.integers(0, 4),
    st.integers(1, 50),
)
def test_place_places_every_item_once_and_never_overfills(sequences, share, window):
    items = [item(*ids) for ids in sequences]
    order = np.random.default_rng(0).permutation(len(items))
    rows = place(items, order, 20, share_prefix=share, window=window)
    assert sorted(i for row in rows for i in row) == list(range(len(items)))
    for row in rows:
        chosen = [items[i] for i in row]
        packed = pack_row(chosen, 20, 0, share_prefix=share)
        assert row_cost(chosen, share) == np.count_nonzero(packed["ends"]) <= 20
        if not share:
            assert sum(map(len, chosen)) <= 20


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=12), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_every_item_can_be_read_back_from_a_row_of_trees(sequences, share):
    """From what each token may see: the item alone, at its own positions, predicted as alone."""
    items = [item(*ids, weights=np.arange(len(ids))) for ids in sequences]
    row = pack_row(items, 100, 9, share_prefix=share)
    seen = []
    for index in range(np.count_nonzero(row["ends"])):
        path = [s for s in range(index + 1) if row["ends"][s] > index]
        assert row["positions"][path].tolist() == list(range(len(path)))
        seen.append(tuple(row["tokens"][path]))
    assert {tuple(i.ids) for i in items} <= set(seen)
    labels = {}
    for at, label, weight in zip(
        row["predict_at"], row["labels"], row["label_weights"], strict=True
    ):
        key = (*seen[at], label)
        labels[key] = labels.get(key, 0) + weight
    wanted = {}
    for one in items:
        for i in range(1, len(one)):
            key = tuple(one.ids[: i + 1])
            wanted[key] = wanted.get(key, 0) + one.weights[i]
    assert labels == wanted


def test_the_row_of_the_module_docstring():
    u, a, b, x, y, z = 1, 2, 3, 4, 5, 6
    items = [item(u, a, b, x, y, weights=[0, 0, 1, 1, 2]), item(u, a, b, z, weights=[0, 0, 3, 1])]
    row = pack_row(items, 8, 0, labels=6, share_prefix=2)
    assert row["tokens"].tolist() == [1, 2, 3, 4, 5, 6, 0, 0]
    assert row["ends"].tolist() == [6, 6, 6, 5, 5, 6, 0, 0]
    assert row["positions"].tolist() == [0, 1, 2, 3, 4, 3, 0, 0]
    assert row["segment_ids"].tolist() == [1] * 6 + [0, 0]
    assert row["predict_at"].tolist() == [1, 2, 3, 2, 0, 0]
    assert row["labels"].tolist() == [b, x, y, z, 0, 0]
    assert row["label_weights"].tolist() == [4.0, 1.0, 2.0, 1.0, 0.0, 0.0]


def test_short_prefixes_are_not_shared_and_long_items_are_refused():
    items = [item(1, 2, 3), item(1, 2, 4)]
    assert row_cost(items, 3) == 6 and row_cost(items, 2) == 4 and row_cost(items, 0) == 6
    with pytest.raises(ValueError, match=r"item 1 has 3 tokens, a row 2"):
        place([item(1), item(1, 2, 3)], [0, 1], 2)
    with pytest.raises(ValueError, match="more than the row's 4 tokens"):
        pack_row([item(1, 2, 3), item(4, 5, 6)], 4, 0)
    with pytest.raises(ValueError, match="4 tokens are supervised, there is room for 3"):
        pack_row([item(1, 2, 3, 4, 5)], 8, 0, labels=3)


def test_common_prefixes_are_those_of_pairs():
    source = np.random.default_rng(0)
    sequences = [source.integers(0, 2, n).astype(np.int32) for n in source.integers(1, 9, 30)]
    prefixes = Prefixes(sequences, 2)
    for i, one in enumerate(sequences):
        for j, other in enumerate(sequences):
            shared = next(
                (k for k in range(min(len(one), len(other))) if one[k] != other[k]),
                min(len(one), len(other)),
            )
            if i != j:
                assert prefixes.common(i)[j] == (shared if shared >= 2 else 0)


@pytest.mark.parametrize(
    ("row_tokens", "median", "spread", "count"),
    [(1024, 330, 0.4, 1600), (16_384, 1800, 0.5, 1597), (4096, 1100, 0.5, 800)],
)
def test_rows_of_traces_of_many_lengths_are_97_percent_full(row_tokens, median, spread, count):
    source = np.random.default_rng(0)
    lengths = source.lognormal(np.log(median), spread, count).clip(median // 4, row_tokens)
    items = [Item(np.zeros(int(n), np.int32), np.zeros(int(n), np.float32)) for n in lengths]
    epochs = [place(items, source.permutation(count), row_tokens, seed=(0, e)) for e in (0, 1)]
    for rows in epochs:
        assert sum(map(len, items)) / (len(rows) * row_tokens) >= 0.97
    pairs = [{frozenset(p) for r in rows for p in zip(r, r[1:], strict=False)} for rows in epochs]
    assert len(pairs[0] & pairs[1]) < 0.2 * len(pairs[0])  # other neighbours in every epoch


def test_shared_prefixes_fill_rows_and_save_what_is_common():
    """Two kinds of prompt, constant first; branches of 20..200 tokens."""
    source = np.random.default_rng(0)
    kinds = [source.integers(0, 50, n) for n in (300, 450)]
    items = [
        item(*kinds[int(source.integers(2))], *source.integers(0, 50, source.integers(20, 200)))
        for _ in range(400)
    ]
    order = source.permutation(len(items))
    rows = place(items, order, 1024, share_prefix=64)
    placed = sum(row_cost([items[i] for i in row], 64) for row in rows)
    assert placed / (len(rows) * 1024) >= 0.97
    assert placed < 0.55 * sum(map(len, items))
    assert len(rows) < 0.6 * len(place(items, order, 1024))
