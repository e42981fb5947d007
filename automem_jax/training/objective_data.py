"""What each objective reads from disk, and how it is packed.

sft and weighted_sft read examples.jsonl; weighted_sft takes weights from signals (weighting.py). dpo reads
pairs.jsonl, a line a pair:

    {"messages": [...the prompt...],
     "chosen": {"text": "...", "supervised": [{"start": 0, "end": 9}], "ids": [...]},
     "rejected": {the same},
     "weight": 1.0, "provenance": {...}}

`supervised`: character spans of the text that hold operations, for the loss mode memory_ops; `ids`: the
sampler's own tokens of the text. Both may be left out (everything is supervised, the text is encoded).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from automem_jax.config import TrainingConfig
from automem_jax.text.messages import Message
from automem_jax.text.tokenizer import Tokenizer
from automem_jax.training.data import (
    DataError,
    Dataset,
    Packer,
    earliest_turn,
    load_items,
    named,
    tokenise,
)
from automem_jax.training.packing import pack_row
from automem_jax.training.pairs import make_pair, pack_pairs
from automem_jax.training.weighting import example_weight, pack_weighted, scaled

_PACKERS: dict[str, Packer] = {
    "sft": pack_row,
    "weighted_sft": pack_weighted,
    "dpo": pack_pairs,
}


def packer_of(config: TrainingConfig) -> Packer:
    """How rows of the configuration's objective are laid out."""
    return _PACKERS[config.objective]


def load_for(config: TrainingConfig, path: str | Path, tokenizer: Tokenizer) -> Dataset:
    """The items, or pairs, of a file, as the configuration's objective trains on them.

    Raises:
      DataError: a line is broken or cannot be trained on, or nothing is left; names the line.
    """
    if config.objective == "dpo":
        return load_pairs(path, tokenizer, loss=config.loss, row_tokens=config.row_tokens)
    weighted = config.objective == "weighted_sft"
    dataset = load_items(
        path,
        tokenizer,
        loss=config.loss,
        row_tokens=config.row_tokens,
        weigh=functools.partial(example_weight, config=config) if weighted else None,
    )
    return dataclasses.replace(dataset, items=scaled(dataset.items)) if weighted else dataset


def load_pairs(
    pairs_path: str | Path, tokenizer: Tokenizer, *, loss: str, row_tokens: int
) -> Dataset:
    """Tokenises a file of pairs. Both answers keep the same earlier turns: where one has to lose some to
    fit, with the other beside it, both do.

    Raises:
      DataError: a line is broken, an answer supervises no token, both answers are the same tokens, or
        nothing is left; names the line.
    """
    if loss == "all_assistant_turns":
        raise DataError(
            "training.loss 'all_assistant_turns' trains on turns that both answers of a pair share; "
            "use 'last_turn' or 'memory_ops' with training.objective 'dpo'"
        )
    pairs, dropped, shortened = [], Counter(), 0
    with open(pairs_path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                pair, cut = _tokenise_pair(json.loads(line), tokenizer, loss, row_tokens, number)
            except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                raise DataError(f"{pairs_path}:{number}: {kind}{error}") from error
            if pair is None:
                dropped["longer than a row"] += 1
            else:
                pairs.append(pair)
                shortened += cut
    if not pairs:
        raise DataError(
            f"{pairs_path}: no pair to train on ({sum(dropped.values())} longer than {row_tokens} "
            "tokens); raise training.row_tokens, collect more, or use another training.objective"
        )
    retokenised = sum(pair.retokenised for pair in pairs)
    return Dataset(tuple(pairs), dict(dropped), shortened, retokenised)


def _tokenise_pair(line: dict[str, Any], tokenizer: Tokenizer, loss: str, room: int, number: int):
    """The pair of one line (None where it does not fit a row), and whether it lost earlier turns."""
    weight = float(line.get("weight", 1.0))
    if not 0 < weight < float("inf"):
        raise DataError(f"weight {weight}: a pair's weight must be finite and above 0")
    prompt, cut = [Message(m["role"], m["content"]) for m in line["messages"]], False
    while True:
        sides = [_as_example(prompt, line[name]) for name in ("chosen", "rejected")]
        items = [tokenise(side, tokenizer, loss, sys.maxsize)[0] for side in sides]
        pair = make_pair(*items, weight=weight)
        if len(pair) <= room:
            break
        earliest = earliest_turn([*prompt, Message("assistant", "")])
        if earliest is None:
            return None, cut
        prompt, cut = prompt[: earliest[0]] + prompt[earliest[1] :], True
    chosen, rejected = items
    if chosen.ids.tolist() == rejected.ids.tolist():
        raise DataError("chosen and rejected are the same tokens, so neither can be preferred")
    return dataclasses.replace(pair, **named(line, number)), cut


def _as_example(prompt: Sequence[Message], answer: dict[str, Any]) -> dict[str, Any]:
    text, last = answer["text"], len(prompt)
    spans = answer.get("supervised") or [{"start": 0, "end": len(text)}]
    return {
        "messages": [
            *({"role": m.role, "content": m.content} for m in prompt),
            {"role": "assistant", "content": text},
        ],
        "supervised": [{**span, "message": last} for span in spans],
        "token_ids": [{"message": last, "ids": answer["ids"]}] if answer.get("ids") else [],
    }
