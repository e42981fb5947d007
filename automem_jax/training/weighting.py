"""Weights of examples from the signals that were measured for their decisions.

    linear     weight = min(max(signal, 0), max_weight)
    advantage  weight = min(exp(signal / weight_beta), max_weight)

`advantage` is advantage-weighted regression (Peng et al., arXiv 1910.00177): the signal is what a decision
was worth beyond the usual, good decisions count more and bad ones less, and none is pushed away. Both
are scaled so that the mean weight a supervised token is 1: the learning rate then means what it means
without weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automem_jax.config import TrainingConfig
from automem_jax.training.packing import Item, pack_row

WEIGHTINGS = ("linear", "advantage")


def example_weight(example: Mapping[str, Any], config: TrainingConfig) -> float:
    """The weight of one example before scaling, at least 0; 0 leaves it out.

    The signal is the example's field `config.weight_signal`, or of that name among its `signals`.

    Raises:
      ValueError: it is missing or no finite number.
    """
    name = config.weight_signal
    signals = example.get("signals") or {}
    value = example[name] if name in example else signals.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        known = sorted(k for k, v in signals.items() if isinstance(v, float))
        raise ValueError(
            f"training.weight_signal {name!r} is {value!r} here, not a finite number; use 'weight'"
            + (f" or one of its signals: {', '.join(known)}" if known else "")
        )
    if config.weighting == "advantage":
        exponent = min(value / config.weight_beta, math.log(config.max_weight))
        return math.exp(exponent)
    return min(max(float(value), 0.0), config.max_weight)


def scaled(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items with their weights scaled so that supervised tokens weigh 1 on average."""
    taught = np.concatenate([item.weights[1:][item.weights[1:] > 0] for item in items])
    mean = float(taught.mean(dtype=np.float64))
    return tuple(
        dataclasses.replace(item, weights=(item.weights / mean).astype(np.float32))
        for item in items
    )


def pack_weighted(
    items: Sequence[Item],
    row_tokens: int,
    pad_id: int,
    *,
    labels: int | None = None,
    share_prefix: int = 0,
) -> dict[str, np.ndarray]:
    """`packing.pack_row` with label_counts (float32 [M]): of how many items a label is."""
    arguments = {"labels": labels, "share_prefix": share_prefix}
    row = pack_row(items, row_tokens, pad_id, **arguments)
    ones = [dataclasses.replace(i, weights=(i.weights > 0).astype(np.float32)) for i in items]
    row["label_counts"] = pack_row(ones, row_tokens, pad_id, **arguments)["label_weights"]
    return row
