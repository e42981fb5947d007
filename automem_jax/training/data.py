"""Examples on disk -> tokens and weights -> packed batches (Grain)."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from automem_jax.text.chat import Rendered, render, render_conversation
from automem_jax.text.messages import Message
from automem_jax.text.tokenizer import Tokenizer
from automem_jax.training.packing import Item, first_fit, pack_row, place
from automem_jax.training.pairs import Pair, trained_tokens

LOSS_MODES = ("last_turn", "all_assistant_turns", "memory_ops")
LABELS_MULTIPLE = 16

Packer = Callable[..., dict[str, np.ndarray]]  # packing.pack_row, or one of its signature


class DataError(ValueError):
    """An example cannot be trained on as it stands; the message names it and the remedy."""


@dataclass(frozen=True)
class Dataset:
    """Tokenised items, ready to pack.

    Attributes:
      items: in the order of the file.
      dropped: how many examples were left out, by reason.
      shortened: how many lost earlier turns to fit a row.
      retokenised: learnt turns whose sampled tokens do not spell their text; encoded anew.
    """

    items: tuple[Item | Pair, ...]
    dropped: dict[str, int]
    shortened: int
    retokenised: int = 0


def supervised_spans(
    example: dict[str, Any], loss: str
) -> tuple[list[Message], list[tuple[int, int, int, float]]]:
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
    whole = (last, 0, len(messages[last].content), 1.0)
    if loss == "last_turn":
        spans = [whole]
    elif loss == "memory_ops":
        spans = [
            (s["message"], s["start"], s["end"], float(s.get("weight", 1.0)))
            for s in example["supervised"]
        ]
    elif loss == "all_assistant_turns":
        spans = []
        for turn in example.get("history", ()):
            if messages[turn["message"]].role != "assistant":
                raise DataError(
                    f"history names message {turn['message']}, which is part of the prompt"
                )
            messages[turn["message"]] = Message("assistant", turn["text"])
            spans.append((turn["message"], 0, len(turn["text"]), 1.0))
        spans.append(whole)
    else:
        raise DataError(f"unknown loss {loss!r}; use one of {', '.join(LOSS_MODES)}")
    for index, *_ in spans:
        if messages[index].role != "assistant":
            raise DataError(
                f"message {index} ({messages[index].role}) is part of the prompt but is supervised"
            )
    if not any(end > start for _, start, end, _ in spans):
        raise DataError("no character is supervised")
    return messages, spans


def tokenise(
    example: dict[str, Any], tokenizer: Tokenizer, loss: str, row_tokens: int
) -> tuple[Item | None, bool]:
    """One item of at most `row_tokens` tokens, and whether earlier turns were dropped to make it fit.

    An item that is too long loses its earliest turns (what the user said and the answer to it), whole
    ones only; the system message and the last pair stay. None where even that is too long.
    Where `example["token_ids"]` (a list of {"message": index, "ids": [...]}) holds the sampler's own
    tokens of a supervised turn, and they spell its text, they are what is learnt.

    Raises:
      DataError: nothing, or part of the prompt, would be supervised.
    """
    messages, spans = supervised_spans(example, loss)
    sampled = {entry["message"]: entry["ids"] for entry in example.get("token_ids", ())}
    shortened = False
    while True:
        rendered = _render(messages, tokenizer, spans, sampled)
        if len(rendered.ids) <= row_tokens:
            break
        earliest = earliest_turn(messages)
        if earliest is None:
            return None, shortened
        start, stop = earliest
        messages = messages[:start] + messages[stop:]
        shift = stop - start
        spans = [(i - shift, *span) for i, *span in spans if i >= stop]
        sampled = {i - shift: ids for i, ids in sampled.items() if i >= stop}
        shortened = True
    scaled = np.asarray(rendered.weights, np.float32) * np.float32(example.get("weight", 1.0))
    if not (scaled > 0).any():
        raise DataError(
            "no token is supervised; give the example a weight above 0 and a non-empty span"
        )
    ids = np.asarray(rendered.ids, np.int32)
    return Item(ids, scaled, retokenised=rendered.retokenised), shortened


def _render(messages, tokenizer, spans, sampled) -> Rendered:
    taught = [s for s in spans if s[2] > s[1]]
    rendered = render_conversation(messages, tokenizer, taught, sampled)
    first = min(index for index, *_ in spans)
    prompt = render(messages[:first], tokenizer, add_generation_prompt=True)
    if rendered.ids[: len(prompt)] != prompt or any(rendered.weights[: len(prompt)]):
        raise DataError("tokens of the prompt are supervised; the spans do not match the messages")
    return rendered


def earliest_turn(messages: Sequence[Message]) -> tuple[int, int] | None:
    """Bounds of the first turn that may go: from after the system message to the next user message."""
    start = 1 if messages and messages[0].role == "system" else 0
    for stop in range(start + 1, len(messages) - 1):
        if messages[stop].role == "user" and messages[stop - 1].role == "assistant":
            return start, stop
    return None


def load_items(
    examples_path: str | Path,
    tokenizer: Tokenizer,
    *,
    loss: str,
    row_tokens: int,
    weigh: Callable[[dict[str, Any]], float] | None = None,
) -> Dataset:
    """Tokenises a file of examples.

    Args:
      weigh: the weight of an example, in place of its own; one of weight 0 is dropped.

    Raises:
      DataError: a line is broken, supervises no token or the prompt, or nothing is left; names the line.
    """
    items, dropped, shortened = [], Counter(), 0
    with open(examples_path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                example = json.loads(line)
                if weigh is not None:
                    example["weight"] = weigh(example)
                    if not example["weight"]:
                        dropped["weight 0"] += 1
                        continue
                item, cut = tokenise(example, tokenizer, loss, row_tokens)
            except (KeyError, TypeError, IndexError, ValueError) as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                raise DataError(f"{examples_path}:{number}: {kind}{error}") from error
            if item is None:
                dropped["longer than a row"] += 1
            else:
                items.append(dataclasses.replace(item, **named(example, number)))
                shortened += cut
    if not items:
        raise DataError(
            f"{examples_path}: no item to train on ({dropped['longer than a row']} longer than "
            f"{row_tokens} tokens, {dropped['weight 0']} of weight 0); raise training.row_tokens or "
            "select again"
        )
    retokenised = sum(item.retokenised for item in items)
    return Dataset(tuple(items), dict(dropped), shortened, retokenised)


def named(example: dict[str, Any], number: int) -> dict[str, str]:
    """`name` and `episode` of the item that line `number` of a file gives."""
    source = example.get("provenance", {})
    name = f"line {number}" + "".join(
        f", {key} {source[key]}" for key in ("trace", "t", "phase", "turn") if key in source
    )
    return {"name": name, "episode": str(source.get("trace", f"line {number}"))}


@dataclass(frozen=True)
class Plan:
    """Which items lie in which row of which optimizer step, decided before the first one.

    Attributes:
      rows: positions into the items, a row each; `batch_rows` rows are a step. Only the last step
        may have empty rows.
      row_tokens, batch_rows, share_prefix: as in TrainingConfig.
      labels: M, room for supervised tokens in a row.
      item_tokens: tokens of the items, each counted as often as it is trained on.
      placed_tokens: tokens that rows hold; fewer than `item_tokens` where prefixes are shared.
      nested: whether a row holds a tree.
    """

    rows: tuple[tuple[int, ...], ...]
    row_tokens: int
    batch_rows: int
    share_prefix: int
    labels: int
    item_tokens: int
    placed_tokens: int
    nested: bool

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.rows) // self.batch_rows

    @property
    def fill(self) -> float:
        """Share of all tokens of all rows that are not padding."""
        return self.placed_tokens / (len(self.rows) * self.row_tokens)

    @property
    def saving(self) -> float:
        """Share of the items' tokens that shared prefixes save."""
        return 1 - self.placed_tokens / self.item_tokens

    def step_rows(self, step: int) -> tuple[tuple[int, ...], ...]:
        """The rows of optimizer step `step`, from 1."""
        return self.rows[(step - 1) * self.batch_rows : step * self.batch_rows]


def plan_rows(
    items: Sequence[Item | Pair],
    *,
    row_tokens: int,
    batch_rows: int,
    epochs: int,
    seed: int,
    packing: str = "best_fit",
    share_prefix: int = 0,
    pack: Packer = pack_row,
) -> Plan:
    """Packs every item once an epoch, shuffled anew for each by Grain; no row mixes epochs.

    Depends on the arguments alone.

    Raises:
      ValueError: an item is longer than a row.
    """
    rows: list[list[int]] = []
    order = grain.MapDataset.range(len(items)).shuffle(seed=seed).repeat(epochs)
    for epoch in range(epochs):
        chosen = [int(order[epoch * len(items) + i]) for i in range(len(items))]
        if packing == "first_fit":
            packed = first_fit([len(items[i]) for i in chosen], row_tokens)
            rows += [[chosen[i] for i in row] for row in packed]
        else:
            rows += place(items, chosen, row_tokens, share_prefix=share_prefix, seed=(seed, epoch))
    item_tokens = epochs * sum(map(trained_tokens, items))
    placed, labels = 0, 0
    for row in rows:
        packed = pack([items[i] for i in row], row_tokens, 0, share_prefix=share_prefix)
        placed += int(np.count_nonzero(packed["ends"]))
        labels = max(labels, len(packed["labels"]))
    rows += [[]] * (-len(rows) % batch_rows)
    return Plan(
        rows=tuple(map(tuple, rows)),
        row_tokens=row_tokens,
        batch_rows=batch_rows,
        share_prefix=share_prefix,
        labels=-(-labels // LABELS_MULTIPLE) * LABELS_MULTIPLE,
        item_tokens=item_tokens,
        placed_tokens=placed,
        nested=placed < item_tokens,
    )


def batches_of(
    plan: Plan,
    items: Sequence[Item | Pair],
    pad_id: int,
    own_rows: Sequence[int] | None = None,
    pack: Packer = pack_row,
) -> grain.MapDataset:
    """The batches of a plan, a step each: tokens, positions and (with trees) ends or (without)
    segment_ids, each [B, T]; predict_at, labels, label_weights, each [B, M].

    The state of an iterator over it is one number: cheap to save and exact to restore.

    Args:
      own_rows: the rows of each batch that this process feeds, B of them; by default all.
      pack: as the rows were planned with; may add more arrays.
    """
    own_rows = range(plan.batch_rows) if own_rows is None else own_rows
    unused = "segment_ids" if plan.nested else "ends"

    def materialise(step: int) -> dict[str, np.ndarray]:
        chosen = plan.step_rows(int(step) + 1)
        rows = [
            pack(
                [items[i] for i in chosen[row]],
                plan.row_tokens,
                pad_id,
                labels=plan.labels,
                share_prefix=plan.share_prefix,
            )
            for row in own_rows
        ]
        return {name: np.stack([r[name] for r in rows]) for name in rows[0] if name != unused}

    return grain.MapDataset.range(plan.steps).map(materialise)


def packed_batches(items: Sequence[Item], *, pad_id: int, **settings: Any) -> grain.MapDataset:
    """`batches_of` the `plan_rows` with `settings`; `len()` of the result is the number of steps."""
    return batches_of(plan_rows(items, **settings), items, pad_id)


def split_heldout(
    items: Sequence[Item | Pair], share: float, seed: int
) -> tuple[tuple[Item | Pair, ...], tuple[Item | Pair, ...]]:
    """(items to train on, items held out): about `share` of the episodes, at least one, whole.

    Raises:
      DataError: there are not two episodes to split.
    """
    if not share:
        return tuple(items), ()
    episodes = sorted({item.episode for item in items})
    if len(episodes) < 2:
        raise DataError(
            f"all {len(items)} items are of one episode, so none can be held out; collect more "
            "episodes or set training.heldout_share to 0"
        )
    count = min(max(1, round(share * len(episodes))), len(episodes) - 1)
    chosen = np.random.default_rng(seed).permutation(len(episodes))[:count]
    held = {episodes[i] for i in chosen}
    return (
        tuple(item for item in items if item.episode not in held),
        tuple(item for item in items if item.episode in held),
    )
