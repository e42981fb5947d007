"""Packs items of many lengths into rows of one length.

First fit over a bounded number of open rows: an item goes into the first open row that has room for all
of it. No item is ever split. Items of a row are told apart by segment ids (1, 2, ...; 0 is padding),
and positions start again at 0 in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OPEN_ROWS = 64


@dataclass(frozen=True)
class Item:
    """One tokenised example. `weights[i]` is the loss weight of predicting `ids[i]`; equal lengths."""

    ids: np.ndarray  # int32 [length]
    weights: np.ndarray  # float32 [length]

    def __len__(self) -> int:
        return len(self.ids)


def first_fit(
    lengths: Sequence[int], row_tokens: int, open_rows: int = OPEN_ROWS
) -> list[list[int]]:
    """Rows as lists of positions into `lengths`, in the order in which rows were opened.

    When more than `open_rows` rows have room left, the fullest of them is closed.

    Raises:
      ValueError: an item is longer than a row.
    """
    rows: list[list[int]] = []
    room: dict[int, int] = {}  # open row -> tokens left; insertion order is opening order
    for index, length in enumerate(lengths):
        if length > row_tokens:
            raise ValueError(
                f"item {index} has {length} tokens, a row {row_tokens}; "
                "raise training.row_tokens or drop the item"
            )
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


def pack_row(items: Sequence[Item], row_tokens: int, pad_id: int) -> dict[str, np.ndarray]:
    """One row: tokens, segment_ids, positions (int32 [T]) and weights (float32 [T])."""
    row = empty_row(row_tokens, pad_id)
    start = 0
    for segment, item in enumerate(items, start=1):
        end = start + len(item)
        row["tokens"][start:end] = item.ids
        row["segment_ids"][start:end] = segment
        row["positions"][start:end] = np.arange(len(item))
        row["weights"][start:end] = item.weights
        start = end
    return row


def empty_row(row_tokens: int, pad_id: int) -> dict[str, np.ndarray]:
    """A row of nothing but padding."""
    return {
        "tokens": np.full(row_tokens, pad_id, np.int32),
        "segment_ids": np.zeros(row_tokens, np.int32),
        "positions": np.zeros(row_tokens, np.int32),
        "weights": np.zeros(row_tokens, np.float32),
    }
