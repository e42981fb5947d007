"""Packs items of many lengths into rows of one length, with common prefixes stored once.

No item is ever split. `place` decides which items share a row; `pack_row` lays a row out.

A row is a forest in depth-first order. Items that begin alike are branches of one trunk:

    items   u a b x y      u a b z
    row     u a b x y z . .          . is padding
    ends    6 6 6 5 5 6 0 0          a token is seen by itself and what follows, up to `ends`
    positions 0 1 2 3 4 3 0 0

`z` sees `u a b` and not `x y`, at the position that it has in its own item, so its hidden state is
that of the item alone. It is predicted from `b`, as `x` is. Where a token of a trunk is supervised in
k items, its label weighs the sum of the k weights: sums of losses and gradients are those of
the separate items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

OPEN_ROWS = 64
WINDOW_ITEMS = 4096
LENGTH_CLASSES = 32  # of a row: items of one class are interchangeable, so epochs differ
PREFIX_CLASS_TOKENS = 32


@dataclass(frozen=True)
class Item:
    """One tokenised example. `weights[i]` is the loss weight of predicting `ids[i]`; equal lengths.

    `name` says where it comes from, for messages; items of one `episode` are never split between
    training and held-out data. `retokenised` learnt turns did not keep the sampler's own tokens,
    because those do not spell the turn's text.
    """

    ids: np.ndarray  # int32 [length]
    weights: np.ndarray  # float32 [length]
    name: str = ""
    episode: str = ""
    retokenised: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def first_fit(
    lengths: Sequence[int], row_tokens: int, open_rows: int = OPEN_ROWS
) -> list[list[int]]:
    """Rows as lists of positions into `lengths`, in the order in which rows were opened.

    An item goes into the first open row that has room for all of it. When more than `open_rows`
    rows have room left, the fullest of them is closed.

    Raises:
      ValueError: an item is longer than a row.
    """
    _require_short(lengths, row_tokens)
    rows: list[list[int]] = []
    room: dict[int, int] = {}  # open row -> tokens left; insertion order is opening order
    for index, length in enumerate(lengths):
        row = next((r for r, left in room.items() if left >= length), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room[row] = row_tokens
        rows[row].append(index)
        room[row] -= length
        if room[row] == 0:
            del room[row]
        elif len(room) > open_rows:
            del room[min(room, key=room.__getitem__)]
    return rows


def place(
    items: Sequence[Item],
    order: Sequence[int],
    row_tokens: int,
    *,
    share_prefix: int = 0,
    window: int = WINDOW_ITEMS,
    seed: Sequence[int] = (0,),
) -> list[list[int]]:
    """Rows as lists of positions into `items`: each of `order` once, rows as full as can be.

    Rows are filled one at a time from a window of `window` items, largest first (with
    `share_prefix`, those with the longest common prefix first). Items of nearly the same
    length are taken as `order` has them, and the window's rows are shuffled, so other orders and
    seeds give other rows. What a window leaves in its last row goes into the next window.

    Args:
      share_prefix: items that begin with this many equal tokens share them in a row; 0: none do.

    Raises:
      ValueError: an item is longer than a row.
    """
    _require_short([len(items[i]) for i in order], row_tokens)
    rows: list[list[int]] = []
    carried: list[int] = []
    generator = np.random.default_rng(list(seed))
    for start in range(0, len(order), window):
        pool = carried + list(order[start : start + window])
        prefixes = Prefixes([items[i].ids for i in pool], share_prefix) if share_prefix else None
        lengths = np.array([len(items[i]) for i in pool])
        filled = [[pool[i] for i in row] for row in _fill_rows(lengths, row_tokens, prefixes)]
        carried = filled.pop() if start + window < len(order) else []
        rows += [filled[i] for i in generator.permutation(len(filled))]
    return rows


def _fill_rows(lengths: np.ndarray, row_tokens: int, prefixes: Prefixes | None) -> list[list[int]]:
    """Fills one row after the other. Axis N: items."""
    coarse = max(1, row_tokens // LENGTH_CLASSES)
    left = np.ones(len(lengths), bool)
    rows = []
    while left.any():
        first = int(np.argmax(np.where(left, lengths // coarse, -1)))
        row, room = [first], row_tokens - int(lengths[first])
        left[first] = False
        shared = np.zeros(len(lengths), np.int64)
        while True:
            if prefixes is not None:
                shared = np.maximum(shared, prefixes.common(row[-1]))
            cost = lengths - shared
            fits = np.flatnonzero(left & (cost <= room))
            if not len(fits):
                break
            chosen = fits[_choice(cost[fits], shared[fits], room, coarse)]
            row.append(int(chosen))
            room -= int(cost[chosen])
            left[chosen] = False
        rows.append(row)
    return rows


def _choice(cost: np.ndarray, shared: np.ndarray, room: int, coarse: int) -> int:
    """Which of the items that fit goes in next: the closest kin, of these the largest."""
    kin = shared // PREFIX_CLASS_TOKENS
    nearest = kin == kin.max()
    best = int(np.argmax(np.where(nearest, cost // coarse, -1)))
    smallest = int(cost.min())
    if room - int(cost[best]) >= 2 * smallest:
        return best
    # Few more will fit: the one, or the two, that leave the least room.
    sizes = np.sort(cost)
    partner = np.searchsorted(sizes, room - cost, side="right") - 1
    with_partner = cost + np.where(partner >= 0, sizes[partner], 0)
    with_partner = np.where(with_partner <= room, with_partner, 0)  # no partner fits
    if len(cost) == 1:
        return 0
    return int(np.argmax(np.maximum(cost, with_partner)))


class Prefixes:
    """Lengths of the common prefixes of N token sequences; below `least` they count as none."""

    def __init__(self, sequences: Sequence[np.ndarray], least: int):
        keys = [np.ascontiguousarray(ids, ">u4").tobytes() for ids in sequences]
        self._sorted = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        self._rank = np.empty_like(self._sorted)
        self._rank[self._sorted] = np.arange(len(keys))
        ordered = [sequences[i] for i in self._sorted]
        self._next = np.array(
            [common_prefix(a, b) for a, b in zip(ordered, ordered[1:], strict=False)], np.int64
        )
        self._least = least

    def common(self, index: int) -> np.ndarray:
        """int64 [N]: tokens that sequence `index` shares with each from the start."""
        rank = self._rank[index]
        ordered = np.zeros(len(self._rank), np.int64)
        ordered[rank + 1 :] = np.minimum.accumulate(self._next[rank:])
        ordered[:rank] = np.minimum.accumulate(self._next[:rank][::-1])[::-1]
        ordered[ordered < self._least] = 0
        return ordered[self._rank]


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences share from the start."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if len(differ) else size


def row_cost(items: Iterable[Item], share_prefix: int) -> int:
    """Tokens that these items take in one row."""
    return sum(len(item) - shared for item, shared in _as_tree(list(items), share_prefix))


def pack_row(
    items: Sequence[Item],
    row_tokens: int,
    pad_id: int,
    *,
    labels: int | None = None,
    share_prefix: int = 0,
) -> dict[str, np.ndarray]:
    """One row: tokens, positions, ends, segment_ids (int32 [T]) and predict_at, labels (int32
    [M]), label_weights (float32 [M]).

    A segment is a whole tree, numbered from 1; 0 is padding. The hidden state at `predict_at` is to
    predict the token `labels`. Unused labels weigh 0.

    Args:
      labels: M; by default as many as there are.
      share_prefix: see `place`; 0 lays items side by side in the order given.

    Raises:
      ValueError: the items do not fit the row, or supervise more than `labels` tokens.
    """
    row = empty_row(row_tokens, pad_id, 0)
    weights = np.zeros(row_tokens, np.float32)
    parent = np.zeros(row_tokens, np.int32)
    path = np.zeros(0, np.int64)  # row index of each token of the item last laid down
    cursor, segment = 0, 0
    for item, shared in _as_tree(items, share_prefix):
        row["ends"][path[shared:]] = cursor
        end = cursor + len(item) - shared
        if end > row_tokens:
            raise ValueError(f"{len(items)} items take more than the row's {row_tokens} tokens")
        new = np.arange(cursor, end)
        path = np.concatenate([path[:shared], new])
        segment += shared == 0
        row["tokens"][new] = item.ids[shared:]
        row["positions"][new] = np.arange(shared, len(item))
        row["segment_ids"][new] = segment
        parent[path[1:]] = path[:-1]
        weights[path[1:]] += item.weights[1:]  # nothing predicts an item's first token
        cursor = end
    row["ends"][path] = cursor
    supervised = np.flatnonzero(weights)
    size = len(supervised) if labels is None else labels
    if len(supervised) > size:
        raise ValueError(f"{len(supervised)} tokens are supervised, there is room for {size}")
    values = parent[supervised], row["tokens"][supervised], weights[supervised]
    for name, value in zip(("predict_at", "labels", "label_weights"), values, strict=True):
        row[name] = np.pad(value, (0, size - len(value)))
    return row


def empty_row(row_tokens: int, pad_id: int, labels: int) -> dict[str, np.ndarray]:
    """A row of nothing but padding."""
    return {
        "tokens": np.full(row_tokens, pad_id, np.int32),
        "positions": np.zeros(row_tokens, np.int32),
        "ends": np.zeros(row_tokens, np.int32),
        "segment_ids": np.zeros(row_tokens, np.int32),
        "predict_at": np.zeros(labels, np.int32),
        "labels": np.zeros(labels, np.int32),
        "label_weights": np.zeros(labels, np.float32),
    }


def _as_tree(items: Sequence[Item], share_prefix: int) -> list[tuple[Item, int]]:
    """Items in depth-first order, each with the tokens that it shares with the one before it."""
    if not share_prefix:
        return [(item, 0) for item in items]
    ordered = sorted(items, key=lambda item: np.ascontiguousarray(item.ids, ">u4").tobytes())
    found = [(ordered[0], 0)] if ordered else []
    for before, item in zip(ordered, ordered[1:], strict=False):
        shared = common_prefix(before.ids, item.ids)
        found.append((item, shared if shared >= share_prefix else 0))
    return found


def _require_short(lengths: Iterable[int], row_tokens: int) -> None:
    for index, length in enumerate(lengths):
        if length > row_tokens:
            raise ValueError(
                f"item {index} has {length} tokens, a row {row_tokens}; "
                "raise training.row_tokens or drop the item"
            )
