"""Preference pairs: two answers to one prompt, laid out as two branches of one trunk.

    prompt u a, preferred x y, other x z
    row          u a x y z       one copy of the prompt and of what both answers begin with
    labels       x y x z         each answer has labels of its own, also where they share a token
    weights      + + - -

Both answers lie in one row, so that a row's loss is whole. Where answers share a token, its two labels
cancel in the margin, as they should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automem_jax.training.packing import Item, common_prefix, empty_row


@dataclass(frozen=True)
class Pair:
    """Two tokenised answers to the same prompt.

    Attributes:
      chosen, rejected: prompt and answer each; `weights` marks the answer's supervised tokens.
      weight: of the pair in the loss.
      ids: what decides where the pair is placed: the chosen one's tokens, then a place (a negative
        number) for each token that the other one adds. int32 [length].
      name, episode: as of an Item.
    """

    chosen: Item
    rejected: Item
    weight: float
    ids: np.ndarray
    name: str = ""
    episode: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def retokenised(self) -> int:
        """Answers that did not keep the sampler's own tokens."""
        return self.chosen.retokenised + self.rejected.retokenised

    @property
    def tokens(self) -> int:
        """Tokens of both, prompts counted twice."""
        return len(self.chosen) + len(self.rejected)


def make_pair(chosen: Item, rejected: Item, *, weight: float = 1.0) -> Pair:
    """A pair, named after its chosen item."""
    shared = common_prefix(chosen.ids, rejected.ids)
    added = -1 - np.arange(len(rejected) - shared, dtype=np.int32)
    ids = np.concatenate([chosen.ids, added]).astype(np.int32)
    return Pair(chosen, rejected, weight, ids, chosen.name, chosen.episode)


def trained_tokens(item: Item | Pair) -> int:
    """Tokens of an item without any sharing."""
    return item.tokens if isinstance(item, Pair) else len(item)


def pack_pairs(
    pairs: Sequence[Pair],
    row_tokens: int,
    pad_id: int,
    *,
    labels: int | None = None,
    share_prefix: int = 0,
) -> dict[str, np.ndarray]:
    """One row: what `packing.pack_row` gives, with signed weights, and label_pairs (int32 [M]), the pair
    of each label; label_shares (float32 [M]), which sum to the pair's weight over its labels;
    pair_weights (float32 [M]).

    Answers always share what they begin with, whatever `share_prefix` is.

    Raises:
      ValueError: the pairs do not fit the row, or supervise more than `labels` tokens.
    """
    del share_prefix
    row = empty_row(row_tokens, pad_id, 0)
    items = [item for pair in pairs for item in (pair.chosen, pair.rejected)]
    paths = _lay_out(row, items, row_tokens)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _LABEL_FIELDS}
    for number, pair in enumerate(pairs):
        sides = ((pair.chosen, 1.0), (pair.rejected, -1.0))
        taught = [np.flatnonzero(item.weights[1:]) + 1 for item, _ in sides]
        share = pair.weight / max(1, sum(map(len, taught)))
        for (item, sign), at, path in zip(sides, taught, paths[2 * number :][:2], strict=True):
            columns["predict_at"].append(path[at - 1])
            columns["labels"].append(item.ids[at])
            columns["label_weights"].append(sign * item.weights[at])
            columns["label_pairs"].append(np.full(len(at), number))
            columns["label_shares"].append(np.full(len(at), share))
    count = sum(map(len, columns["labels"]))
    size = count if labels is None else labels
    if count > size:
        raise ValueError(f"{count} tokens are supervised, there is room for {size}")
    for name, kind in _LABEL_FIELDS.items():
        values = np.concatenate([np.zeros(0), *columns[name]]).astype(kind)
        row[name] = np.pad(values, (0, size - count))
    weights = np.array([pair.weight for pair in pairs], np.float32)
    row["pair_weights"] = np.pad(weights, (0, size - len(pairs)))
    return row


_LABEL_FIELDS = {
    "predict_at": np.int32,
    "labels": np.int32,
    "label_weights": np.float32,
    "label_pairs": np.int32,
    "label_shares": np.float32,
}


def _lay_out(
    row: dict[str, np.ndarray], items: Sequence[Item], row_tokens: int
) -> list[np.ndarray]:
    """Fills tokens, positions, ends and segment_ids of `row` with the items' tree; returns, in the
    order of `items`, the row index of each of their tokens."""
    keys = [np.ascontiguousarray(item.ids, ">u4").tobytes() for item in items]
    paths: list[np.ndarray] = [np.zeros(0, np.int64)] * len(items)
    path, before = np.zeros(0, np.int64), np.zeros(0, np.int32)
    cursor = segment = 0
    for index in sorted(range(len(items)), key=keys.__getitem__):
        ids = items[index].ids
        shared = common_prefix(before, ids)
        row["ends"][path[shared:]] = cursor
        end = cursor + len(ids) - shared
        if end > row_tokens:
            raise ValueError(f"{len(items)} answers take more than the row's {row_tokens} tokens")
        new = np.arange(cursor, end)
        path = paths[index] = np.concatenate([path[:shared], new])
        segment += shared == 0
        row["tokens"][new] = ids[shared:]
        row["positions"][new] = np.arange(shared, len(ids))
        row["segment_ids"][new] = segment
        before, cursor = ids, end
    row["ends"][path] = cursor
    return paths
