"""What a training step minimises: weighted likelihood or preference, with a guard against drift.

Axes: B rows, T tokens of a row, D model, M labels of a row, C labels of a chunk, V vocabulary.

All objectives see the same batch: hidden states, the places `predict_at`, the `labels` predicted there and
`label_weights`, and nothing else. What the loss mode masks has no label, whatever the objective. Each
gives sums a row and the row's divisor; a step divides the sum of the one by the sum of the other over
all rows, so rows, microbatches and devices do not change what an item counts.

    sft           sum of w * -log p(label), over the sum of w
    weighted_sft  the same sum, over the number of labels: where all of a batch weighs little, the step is
                  small. Weights average 1 over the data (see weighting.py)
    dpo           -log sigmoid(beta * margin) a pair, over the pairs' weights, where
                  margin = sum over the pair's labels of w * (log p(label) - log p_base(label))
                  and w is positive in the preferred answer, negative in the other
                  (Rafailov et al., arXiv 2305.18290)

With `kl_weight`, each adds kl_weight * KL(specialist || base) at its labels: over the whole vocabulary, a
mean a label (for dpo a mean over pairs of the mean over a pair's labels). The base is the same model
with its adapter off, in the same step; no second copy of the weights exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from automem_jax.config import TrainingConfig
from automem_jax.sharding import constrain

OBJECTIVES = ("sft", "weighted_sft", "dpo")

# What a batch holds beside predict_at, labels and label_weights, each [B, M].
EXTRA_FIELDS = {
    "sft": (),
    "weighted_sft": ("label_counts",),
    "dpo": ("label_pairs", "label_shares", "pair_weights"),
}

Sums = dict[str, Float[Array, " B"]]


@dataclass(frozen=True)
class Objective:
    """Which loss, with its settings; see the module's docstring.

    Attributes:
      kind: one of OBJECTIVES.
      kl_weight: of the penalty on leaving the base; 0: none.
      dpo_beta: how much a margin of one nat counts.
    """

    kind: str = "sft"
    kl_weight: float = 0.0
    dpo_beta: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in OBJECTIVES:
            raise ValueError(f"objective {self.kind!r}: use one of {', '.join(OBJECTIVES)}")

    @property
    def is_plain(self) -> bool:
        """Plain cross entropy: `loss.supervised_loss` alone does it."""
        return self.kind == "sft" and not self.kl_weight

    @property
    def needs_base(self) -> bool:
        """Whether the base's hidden states are needed beside the specialist's."""
        return self.kind == "dpo" or self.kl_weight > 0


def objective_of(config: TrainingConfig) -> Objective:
    """The objective that a training configuration names."""
    return Objective(config.objective, config.kl_weight, config.dpo_beta)


def objective_sums(
    objective: Objective,
    hidden: Float[Array, "B T D"],
    base_hidden: Float[Array, "B T D"] | None,
    batch: dict[str, Array],
    unembed: Callable[[Float[Array, "B C D"]], Float[Array, "B C V"]],
    *,
    chunk: int = 512,
) -> tuple[Float[Array, " B"], Float[Array, " B"], Sums]:
    """Each row's loss sum, its divisor, and sums of what is reported beside the loss (see `figures`).

    Args:
      base_hidden: of the same tokens with the adapter off; needed where `objective.needs_base`.
    """
    scores, base_scores, divergence = label_scores(
        hidden, base_hidden, batch["predict_at"], batch["labels"], unembed, chunk=chunk
    )
    weights = batch["label_weights"]
    if objective.kind == "dpo":
        rows, divisor, sums = _preference(objective, scores, base_scores, batch)
        shares = batch["label_shares"]
    else:
        shares = batch.get("label_counts", weights)
        divisor = jnp.sum(shares, axis=1)
        rows = -jnp.sum(weights * scores, axis=1)
        sums = {"nll": -jnp.sum(shares * scores, axis=1)}
    if divergence is not None:
        sums["kl"] = jnp.sum(shares * divergence, axis=1)
        rows = rows + objective.kl_weight * sums["kl"]
    return rows, divisor, sums


def figures(sums: Sums, divisor: Float[Array, ""]) -> dict[str, Array]:
    """What a step reports, from its rows' sums: means by the divisor of the loss.

    nll: mean -log p a label, unweighted. kl: see the module's docstring. margin: mean of beta * margin.
    accuracy: share of pairs whose preferred answer gained on the base more than the other.
    chosen_reward, rejected_reward: beta times what each answer gained on the base.
    """
    return {name: jnp.sum(rows) / jnp.maximum(divisor, 1e-9) for name, rows in sums.items()}


def _preference(
    objective: Objective,
    scores: Float[Array, "B M"],
    base_scores: Float[Array, "B M"],
    batch: dict[str, Array],
) -> tuple[Float[Array, " B"], Float[Array, " B"], Sums]:
    """DPO's row sums. `label_pairs` numbers the pairs of a row from 0; there is room for M of them,
    and `pair_weights` is 0 where there is none."""
    weights, pair_weights = batch["label_weights"], batch["pair_weights"]
    gains = objective.dpo_beta * weights * (scores - base_scores)

    def by_pair(values: Float[Array, "B M"]) -> Float[Array, "B M"]:
        empty = jnp.zeros(values.shape[-1], values.dtype)
        return jax.vmap(lambda value, pair: empty.at[pair].add(value))(values, batch["label_pairs"])

    chosen = by_pair(jnp.where(weights > 0, gains, 0.0))
    rejected = by_pair(jnp.where(weights < 0, -gains, 0.0))
    margin = chosen - rejected
    rows = jnp.sum(pair_weights * jax.nn.softplus(-margin), axis=1)
    sums = {
        "margin": jnp.sum(pair_weights * margin, axis=1),
        "accuracy": jnp.sum(pair_weights * (margin > 0), axis=1),
        "chosen_reward": jnp.sum(pair_weights * chosen, axis=1),
        "rejected_reward": jnp.sum(pair_weights * rejected, axis=1),
    }
    return rows, jnp.sum(pair_weights, axis=1), sums


def label_scores(
    hidden: Float[Array, "B T D"],
    base_hidden: Float[Array, "B T D"] | None,
    predict_at: Int[Array, "B M"],
    labels: Int[Array, "B M"],
    unembed: Callable[[Float[Array, "B C D"]], Float[Array, "B C V"]],
    *,
    chunk: int = 512,
) -> tuple[Float[Array, "B M"], Float[Array, "B M"] | None, Float[Array, "B M"] | None]:
    """log p(label); log p_base(label) and KL(p || p_base), or None without `base_hidden`; float32.

    No gradient flows into the base's. Logits of `chunk` labels a row exist at a time.
    """
    rows, size = labels.shape
    picked = [jnp.take_along_axis(hidden, predict_at[..., None], axis=1)]
    if base_hidden is not None:
        base_hidden = jax.lax.stop_gradient(base_hidden)
        picked.append(jnp.take_along_axis(base_hidden, predict_at[..., None], axis=1))

    def score(labels: Int[Array, "B C"], *picked: Float[Array, "B C D"]):
        logs = []
        for states in picked:
            logits = constrain(unembed(states).astype(jnp.float32), ("batch", None, "act_vocab"))
            logs.append(jax.nn.log_softmax(logits, axis=-1))
        is_label = jnp.arange(logs[0].shape[-1], dtype=labels.dtype) == labels[..., None]
        found = [jnp.sum(jnp.where(is_label, log, 0.0), axis=-1) for log in logs]
        if len(logs) == 2:
            found.append(jnp.sum(jnp.exp(logs[0]) * (logs[0] - logs[1]), axis=-1))
        return tuple(found)

    if size <= chunk:
        found = score(labels, *picked)
    else:
        chunks = -(-size // chunk)
        width = -(-size // chunks)

        def split(x: Array) -> Array:
            x = jnp.pad(x, ((0, 0), (0, chunks * width - size), *((0, 0),) * (x.ndim - 2)))
            return x.reshape(rows, chunks, width, *x.shape[2:]).swapaxes(0, 1)

        part_of = jax.checkpoint(lambda _, part: (None, score(*part)))
        _, parts = jax.lax.scan(part_of, None, tuple(map(split, (labels, *picked))))
        found = [x.swapaxes(0, 1).reshape(rows, -1)[:, :size] for x in parts]
    return (*found, None, None) if base_hidden is None else tuple(found)
