"""Examples on disk -> tokens and weights -> packed batches (Grain)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from automem_jax.text.chat import render, render_supervised
from automem_jax.text.messages import Message
from automem_jax.text.tokenizer import Tokenizer
from automem_jax.training.packing import Item, empty_row, first_fit, pack_row

LOSS_MODES = ("last_turn", "all_assistant_turns", "memory_ops")


class DataError(ValueError):
    """An example cannot be trained on as it stands; the message names it and the remedy."""


@dataclass(frozen=True)
class Dataset:
    """Tokenised items, ready to pack.

    Attributes:
      items: in the order of the file.
      dropped: how many examples were left out, by reason.
      shortened: how many lost earlier turns to fit a row.
    """

    items: tuple[Item, ...]
    dropped: dict[str, int]
    shortened: int


def supervised_spans(
    example: dict[str, Any], loss: str
) -> tuple[list[Message], list[tuple[int, int, int]]]:
    """The messages of an example as they are trained on, and the character spans that get loss.

    last_turn: the whole last message. memory_ops: the operations in it. all_assistant_turns: also the
    earlier assistant turns that the clean-up left something of, in their cleaned form.

    Raises:
      DataError: unknown mode, or supervision outside an assistant turn.
    """
    messages = [Message(m["role"], m["content"]) for m in example["messages"]]
    if not messages or messages[-1].role != "assistant":
        raise DataError(
            "the last message is not an assistant turn, so there is nothing to learn from"
        )
    last = len(messages) - 1
    whole = (last, 0, len(messages[last].content))
    if loss == "last_turn":
        spans = [whole]
    elif loss == "memory_ops":
        spans = [(s["message"], s["start"], s["end"]) for s in example["supervised"]]
    elif loss == "all_assistant_turns":
        spans = []
        for turn in example.get("history", ()):
            if messages[turn["message"]].role != "assistant":
                raise DataError(
                    f"history names message {turn['message']}, which is part of the prompt"
                )
            messages[turn["message"]] = Message("assistant", turn["text"])
            spans.append((turn["message"], 0, len(turn["text"])))
        spans.append(whole)
    else:
        raise DataError(f"unknown loss {loss!r}; use one of {', '.join(LOSS_MODES)}")
    for index, _, _ in spans:
        if messages[index].role != "assistant":
            raise DataError(
                f"message {index} ({messages[index].role}) is part of the prompt but is supervised"
            )
    if not any(end > start for _, start, end in spans):
        raise DataError("no character is supervised")
    return messages, spans


def tokenise(
    example: dict[str, Any], tokenizer: Tokenizer, loss: str, row_tokens: int
) -> tuple[Item | None, bool]:
    """One item of at most `row_tokens` tokens, and whether earlier turns were dropped to make it fit.

    An item that is too long loses its earliest turns (what the user said and the answer to it), whole
    ones only; the system message and the last pair stay. None where even that is too long.

    Raises:
      DataError: nothing, or part of the prompt, would be supervised.
    """
    messages, spans = supervised_spans(example, loss)
    shortened = False
    while True:
        ids, weights = _render(messages, tokenizer, spans)
        if len(ids) <= row_tokens:
            break
        earliest = _earliest_turn(messages)
        if earliest is None:
            return None, shortened
        start, stop = earliest
        messages = messages[:start] + messages[stop:]
        shift = stop - start
        spans = [(i - shift, s, e) for i, s, e in spans if i >= stop]
        shortened = True
    scaled = np.asarray(weights, np.float32) * np.float32(example.get("weight", 1.0))
    if not (scaled > 0).any():
        raise DataError(
            "no token is supervised; give the example a weight above 0 and a non-empty span"
        )
    return Item(np.asarray(ids, np.int32), scaled), shortened


def _render(messages, tokenizer, spans) -> tuple[list[int], list[float]]:
    ids, weights = render_supervised(messages, tokenizer, [s for s in spans if s[2] > s[1]])
    first = min(index for index, _, _ in spans)
    prompt = render(messages[:first], tokenizer, add_generation_prompt=True)
    if ids[: len(prompt)] != prompt or any(weights[: len(prompt)]):
        raise DataError("tokens of the prompt are supervised; the spans do not match the messages")
    return ids, weights


def _earliest_turn(messages: Sequence[Message]) -> tuple[int, int] | None:
    """Bounds of the first turn that may go: from after the system message to the next user message."""
    start = 1 if messages and messages[0].role == "system" else 0
    for stop in range(start + 1, len(messages) - 1):
        if messages[stop].role == "user" and messages[stop - 1].role == "assistant":
            return start, stop
    return None


def load_items(
    examples_path: str | Path, tokenizer: Tokenizer, *, loss: str, row_tokens: int
) -> Dataset:
    """Tokenises a file of examples.

    Raises:
      DataError: a line is broken, supervises no token or the prompt, or nothing is left; names the line.
    """
    items, dropped, shortened = [], Counter(), 0
    with open(examples_path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                item, cut = tokenise(json.loads(line), tokenizer, loss, row_tokens)
            except (KeyError, TypeError, IndexError, ValueError) as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                raise DataError(f"{examples_path}:{number}: {kind}{error}") from error
            if item is None:
                dropped["longer than a row"] += 1
            else:
                items.append(item)
                shortened += cut
    if not items:
        raise DataError(
            f"{examples_path}: no item to train on ({sum(dropped.values())} longer than "
            f"{row_tokens} tokens); raise training.row_tokens or select again"
        )
    return Dataset(tuple(items), dict(dropped), shortened)


def packed_batches(
    items: Sequence[Item],
    *,
    row_tokens: int,
    batch_rows: int,
    epochs: int,
    seed: int,
    pad_id: int,
) -> grain.MapDataset:
    """Batches of packed rows: tokens, segment_ids, positions, weights, each [batch_rows, row_tokens].

    Grain shuffles the items anew for each epoch; an item lies in exactly one row an epoch, and no row
    mixes epochs. `len()` of the result is the number of optimizer steps. The last batch is filled up
    with empty rows. The state of its iterator is one number, so it is cheap to save and exact to
    restore.
    """
    rows: list[list[int]] = []
    order = grain.MapDataset.range(len(items)).shuffle(seed=seed).repeat(epochs)
    for epoch in range(epochs):
        chosen = [int(order[epoch * len(items) + i]) for i in range(len(items))]
        packed = first_fit([len(items[i]) for i in chosen], row_tokens)
        rows += [[chosen[i] for i in row] for row in packed]
    rows += [[]] * (-len(rows) % batch_rows)

    def materialise(row: list[int]) -> dict[str, np.ndarray]:
        if not row:
            return empty_row(row_tokens, pad_id)
        return pack_row([items[i] for i in row], row_tokens, pad_id)

    return grain.MapDataset.source(rows).map(materialise).batch(batch_rows)


def fill(
    items: Sequence[Item], batches: grain.MapDataset, row_tokens: int, batch_rows: int, epochs: int
) -> float:
    """Share of all packed tokens that are not padding."""
    return epochs * sum(map(len, items)) / (len(batches) * batch_rows * row_tokens)
