"""Who proposes recipes without asking anyone: the paper's priors, then steps from the best so far."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from automem_jax.config import ConfigError, ExperimentConfig, LoraConfig
from automem_jax.recipes.recipe import (
    Recipe,
    own_recipe,
    recipe_from_data,
    recipe_hash,
    recipe_to_data,
)


@dataclass(frozen=True)
class SearchContext:
    """What a proposer sees.

    Attributes:
      iteration: from 1. limit: how many recipes are taken.
      best: the recipe to improve on: the best so far by its gate, else by validation loss.
      tried: hashes of what was proposed before.
      rows: the ledger. folder: where it and its artifacts lie.
    """

    config: ExperimentConfig
    iteration: int
    limit: int
    best: Recipe
    tried: frozenset[str]
    rows: Sequence[dict[str, Any]]
    folder: Path


@dataclass(frozen=True)
class Proposals:
    """Recipes as data (not yet checked), and what asking for them cost."""

    recipes: list[Any]
    proposer: str
    costs: dict[str, Any] = field(default_factory=dict)


class Proposer(Protocol):
    """Proposes recipes; an empty list ends the search."""

    def propose(self, context: SearchContext) -> Proposals:
        """At most `context.limit` recipes; more are not looked at."""


def paper_priors(config: ExperimentConfig) -> list[Recipe]:
    """The recipes of the paper for Crafter, MiniHack and NetHack (METHOD.md's table): examples, rank,
    alpha, targets, epochs and effective batch; 5e-5, cosine, 5 % warm-up in all three.

    Our rows hold several examples each; a batch has as many rows as the paper's has examples.
    """
    found = []
    for name, examples, rank, targets, epochs, batch in (
        ("paper_crafter", 1597, 256, "attention", 4, 32),
        ("paper_minihack", 444, 128, "all_linear", 3, 16),
        ("paper_nethack", 800, 256, "all_linear", 1, 32),
    ):
        own = own_recipe(config, name)
        found.append(
            dataclasses.replace(
                own,
                data=dataclasses.replace(
                    own.data,
                    selection=dataclasses.replace(own.data.selection, max_examples=examples),
                ),
                training=dataclasses.replace(
                    own.training,
                    lora=LoraConfig(rank=rank, alpha=2.0 * rank, targets=targets),
                    epochs=epochs,
                    learning_rate=5e-5,
                    schedule="cosine",
                    warmup=0.05,
                    batch_rows=batch,
                ),
                reason="prior: the recipe of the paper",
            )
        )
    return found


class LocalProposer:
    """First the experiment's own recipe and the paper's, then single steps away from the best."""

    def propose(self, context: SearchContext) -> Proposals:
        """As many new recipes as are taken; deterministic given the context."""
        config, limit = context.config, context.limit
        chosen: list[Recipe] = []
        known = set(context.tried)
        pool = iter(())
        if context.iteration == 1:
            own = dataclasses.replace(own_recipe(config), reason="prior: the experiment's own")
            pool = iter([own, *paper_priors(config)])
        for recipe in (*pool, *neighbours(context)):
            digest = recipe_hash(recipe)
            if digest not in known and len(chosen) < limit:
                known.add(digest)
                chosen.append(recipe)
        return Proposals([recipe_to_data(recipe) for recipe in chosen], "local")


class GivenProposer:
    """Recipes that the user wrote; all in the first iteration."""

    def __init__(self, recipes: Sequence[Any]):
        self.recipes = list(recipes)

    def propose(self, context: SearchContext) -> Proposals:
        return Proposals(self.recipes if context.iteration == 1 else [], "given")


def neighbours(context: SearchContext) -> list[Recipe]:
    """Recipes that differ from the best in one choice, shuffled by iteration and seed."""
    found = []
    for number, (training, selection, what) in enumerate(_steps(context.best, context.config)):
        best = context.best
        data = dataclasses.replace(
            best.data, selection=dataclasses.replace(best.data.selection, **selection)
        )
        changed = dataclasses.replace(
            best,
            name=f"i{context.iteration}_{number}",
            data=data,
            training=dataclasses.replace(best.training, **training),
            reason=f"{what}, from {best.name}",
        )
        try:
            found.append(recipe_from_data(recipe_to_data(changed), context.config))
        except ConfigError:
            continue  # a step out of a field's range
    random.Random(f"{context.config.seed} {context.iteration}").shuffle(found)
    return found


def _steps(
    best: Recipe, config: ExperimentConfig
) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    training, lora, selection = best.training, best.training.lora, best.data.selection
    for factor in (3.0, 1 / 3):
        rate = float(f"{training.learning_rate * factor:.3g}")
        yield {"learning_rate": rate}, {}, f"learning rate {rate:g}"
    for epochs in sorted({2 * training.epochs, max(1, training.epochs // 2)} - {training.epochs}):
        yield {"epochs": epochs}, {}, f"{epochs} epochs"
    for rank in sorted({2 * lora.rank, max(1, lora.rank // 2)} - {lora.rank}):
        changed = dataclasses.replace(lora, rank=rank, alpha=lora.alpha * rank / lora.rank)
        yield {"lora": changed}, {}, f"rank {rank}"
    targets = "attention" if lora.targets == "all_linear" else "all_linear"
    yield {"lora": dataclasses.replace(lora, targets=targets)}, {}, f"adapters on {targets}"
    for loss in sorted({"last_turn", "memory_ops"} - {training.loss}):
        yield {"loss": loss}, {}, f"loss on {loss}"
    signal = {"lineage": "credit", "signals": "score"}.get(selection.kind)  # what examples carry
    if training.objective != "weighted_sft" and signal:
        weighted = {"objective": "weighted_sft", "weight_signal": signal, "weighting": "advantage"}
        yield weighted, {}, f"weights from {signal}"
    if training.objective != "dpo":
        rate = float(f"{training.learning_rate / 3:.3g}")
        loss = "last_turn" if training.loss == "all_assistant_turns" else training.loss
        yield (
            {"objective": "dpo", "learning_rate": rate, "loss": loss},
            {},
            "kept against dropped decisions",
        )
    if training.objective != "sft":
        yield {"objective": "sft"}, {}, "plain likelihood"
    yield {"kl_weight": 0.0 if training.kl_weight else 0.1}, {}, "drift guard switched"
    for factor in (2.0, 0.5):
        count = max(1, round(selection.max_examples * factor))
        yield {}, {"max_examples": count}, f"at most {count} examples"
    least = "min_score" if selection.kind == "signals" else "min_credit"
    for factor in (2.0, 0.5):
        value = float(f"{getattr(selection, least) * factor:.3g}")
        yield {}, {least: value}, f"{least.removeprefix('min_')} from {value:g}"
