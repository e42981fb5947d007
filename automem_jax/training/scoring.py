"""How well an adapter predicts given examples, and how far it has left the base on them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax

from automem_jax.config import LoraConfig, TrainingConfig
from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import Adapter
from automem_jax.text.tokenizer import Tokenizer
from automem_jax.training import data
from automem_jax.training.feed import Feed, training_mesh
from automem_jax.training.loop import on_mesh
from automem_jax.training.objectives import Objective
from automem_jax.training.step import make_score, partition

_MEASURE = Objective("sft", kl_weight=1.0)  # with the penalty, so that the divergence is computed


@dataclass(frozen=True)
class Score:
    """Means a supervised token: negative log-likelihood, KL(specialist || base) in nats; and how many
    tokens that is."""

    loss: float
    kl: float
    tokens: float


def score_adapter(
    config: TrainingConfig,
    model: Decoder,
    tokenizer: Tokenizer,
    adapter: Adapter,
    examples_path: str | Path,
) -> Score:
    """Scores an adapter on a file of examples, all of equal weight, masked by `config.loss`.

    Raises:
      DataError: an example cannot be scored; names its line.
    """
    lora = LoraConfig(rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets)
    config = dataclasses.replace(config, lora=lora)
    items = data.load_items(
        examples_path,
        tokenizer,
        loss=config.loss,
        row_tokens=config.row_tokens,
        weigh=lambda example: 1.0,
    ).items
    mesh = training_mesh(config)
    with jax.set_mesh(mesh):
        parts = partition(on_mesh(model, config, mesh, adapter))
        rows = config.microbatch_rows or config.batch_rows
        plan = data.plan_rows(
            items, row_tokens=config.row_tokens, batch_rows=rows, epochs=1, seed=0
        )
        score = make_score(parts, loss_chunk=config.loss_chunk, mesh=mesh, objective=_MEASURE)
        params, feed = parts.params(), Feed(mesh, rows)
        nll = kl = tokens = 0.0
        for batch in data.batches_of(plan, items, tokenizer.pad_id, feed.own_rows):
            _, count, sums = score(params, feed(batch))
            nll, kl = nll + float(sums["nll"]), kl + float(sums["kl"])
            tokens += float(count)
    return Score(nll / tokens, kl / tokens, tokens)
