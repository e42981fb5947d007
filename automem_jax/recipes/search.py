"""The recipe search: proposals -> data -> successive halving -> paired gate -> ledger -> next iteration.

Every recipe's adapter is scored on one set of validation decisions, of episodes that no recipe trains
on. After each rung the better half goes on with twice the epochs; what survives plays the gate seeds
and takes the lead only where it beats the best so far (architect.gate.judge).

The ledger and what lies beside it decide where to go on: killed anywhere and run again, the search ends
with the same ledger as an unbroken run, clocks aside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from automem_jax.architect.gate import judge
from automem_jax.config import CONNECTION_FIELDS, ConfigError, ExperimentConfig, seed_sets
from automem_jax.files import write_json
from automem_jax.models.lora import AdapterError
from automem_jax.recipes.constraints import ConstraintError, check_recipe
from automem_jax.recipes.ledger import Ledger, LedgerError, timed, totals
from automem_jax.recipes.proposers import Proposer, SearchContext
from automem_jax.recipes.recipe import (
    Recipe,
    data_hash,
    own_recipe,
    recipe_from_data,
    recipe_hash,
    recipe_to_data,
)
from automem_jax.selection import SelectionError
from automem_jax.training.data import DataError
from automem_jax.training.loop import TrainingError

BASE = "base"  # the incumbent before any recipe has won
TRIED, DATA = "tried", "data"  # folders: a recipe's own, and what is selected, by its choice
HALVING = 2

# A recipe's own failures; whatever else goes wrong stops the search, which can go on.
OWN_FAILURES = (SelectionError, DataError, TrainingError, AdapterError, ConstraintError)


@dataclass(frozen=True)
class Prepared:
    """A recipe's training data: the file, and JSON-ready facts about it (count, hash, ...)."""

    examples: Path
    facts: dict[str, Any]
    costs: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """One training: the adapter, and JSON-ready facts (steps, losses, hash)."""

    adapter: Path
    facts: dict[str, Any]
    costs: dict[str, Any]


@dataclass(frozen=True)
class Played:
    """Gate episodes of one arm: progression by seed, failed episodes, costs."""

    progression: dict[int, float]
    failed: int
    costs: dict[str, Any]


class Workshop(Protocol):
    """What the search has done for it. Each call finishes what an earlier, killed one began, and gives
    the same result as an unbroken one; a recipe's own fault is one of OWN_FAILURES."""

    def identity(self) -> dict[str, Any]:
        """What results depend on besides the config: base hash, template hash."""

    def prepare(self, recipe: Recipe, folder: Path) -> Prepared:
        """Selects the recipe's decisions into `folder`."""

    def train(self, recipe: Recipe, data: Prepared, epochs: int, folder: Path) -> Trained:
        """Trains the recipe for `epochs` into `folder`."""

    def validate(self, recipe: Recipe, trained: Trained) -> float:
        """Mean loss a supervised token on the validation decisions."""

    def play(self, name: str, adapter: Path | None) -> Played:
        """Plays the gate seeds with the base alone, or with an adapter."""


@dataclass(frozen=True)
class Best:
    """The lead: a recipe's name (or BASE), its adapter and its gate scores."""

    name: str
    adapter: Path | None
    played: Played


def search(
    config: ExperimentConfig, workdir: str | Path, workshop: Workshop, proposer: Proposer
) -> Best:
    """Searches for `config.recipes.iterations` iterations and returns the best.

    Writes, under WORKDIR/recipes: ledger.jsonl, proposals/<iteration>.json, tried/<recipe>/ (recipe.json,
    trainings), data/<choice>/, best.json.

    Raises:
      LedgerError: the work directory holds a search with other settings.
      ConfigError: every recipe of the first iteration is refused; names the first refusal.
    """
    return _Search(config, Path(workdir) / "recipes", workshop, proposer).run()


class _Search:
    """One run of the search; holds where things are and what is known so far."""

    def __init__(
        self, config: ExperimentConfig, folder: Path, workshop: Workshop, proposer: Proposer
    ):
        self.config, self.settings = config, config.recipes
        self.folder, self.workshop, self.proposer = folder, workshop, proposer
        self.gate_seeds = list(seed_sets(config.seeds)["gate"])
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.recipes: dict[str, Recipe] = {}
        self.data: dict[str, Prepared] = {}

    def run(self) -> Best:
        self._open()
        best = self._baseline()
        for iteration in range(1, self.settings.iterations + 1):
            recipes = self._proposals(iteration, best)
            if not recipes:
                break
            survivors = self._halve(iteration, self._prepare(iteration, recipes))
            for recipe, trained in survivors:
                best = self._gate(iteration, recipe, trained, best)
            self._once({"type": "round", "iteration": iteration}, {"best": best.name})
        return self._finish(best)

    def _once(self, key: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """The row of this key; added with these fields unless it is there."""
        return self.ledger.find(**key) or self.ledger.append({**key, **fields})

    def _open(self) -> None:
        """The first row pins what the search depends on."""
        settings = dataclasses.asdict(self.settings)
        for name in CONNECTION_FIELDS:
            settings["api"].pop(name)
        plan = {
            "type": "start",
            "env": self.config.env.name,
            "task": self.config.env.task,
            "own": recipe_to_data(own_recipe(self.config)),
            "row_tokens": self.config.training.row_tokens,
            "seeds": dataclasses.asdict(self.config.seeds),
            "recipes": settings,
            **self.workshop.identity(),
        }
        digest = json.dumps(plan, sort_keys=True).encode()
        plan["plan_hash"] = hashlib.sha256(digest).hexdigest()[:16]
        if not self.ledger.rows:
            self.ledger.append(plan)
        elif self.ledger.rows[0].get("plan_hash") != plan["plan_hash"]:
            raise LedgerError(
                f"{self.ledger.path}: holds a search with other settings, seeds, template or base; use "
                "another work directory, or move recipes/ away"
            )

    def _baseline(self) -> Best:
        key: dict[str, Any] = {"type": "gate", "recipe": BASE}
        row = dict(key)
        with timed(row):
            played = self.workshop.play(BASE, None)
        mean = sum(played.progression.values()) / max(1, len(played.progression))
        row |= {"n": len(played.progression), "mean": mean, "failed": played.failed}
        self._once(key, row | {"costs": played.costs})
        return Best(BASE, None, played)

    def _proposals(self, iteration: int, best: Best) -> list[Recipe]:
        """The accepted recipes of an iteration. Proposals are on disk before any is tried, so that a
        resumed search pays for them once."""
        path = self.folder / "proposals" / f"{iteration}.json"
        if not path.exists():
            record: dict[str, Any] = {}
            with timed(record):
                proposals = self.proposer.propose(self._context(iteration, best))
            write_json(path, dataclasses.asdict(proposals) | record)
        record = json.loads(path.read_text(encoding="utf-8"))
        accepted, refusals = [], []
        for number, data in enumerate(record["recipes"], 1):
            key = {"type": "proposal", "iteration": iteration, "number": number}
            recipe, fields = self._judge_proposal(data, number)
            fields["proposer"] = record["proposer"]
            if number == 1:
                fields |= {"costs": record["costs"], "clock": record["clock"]}
            row = self._once(key, fields)
            if recipe is None:
                refusals.append(row["reason"])
                continue
            self.recipes[recipe.name] = recipe
            write_json(self.folder / TRIED / recipe.name / "recipe.json", recipe_to_data(recipe))
            accepted.append(recipe)
        if refusals and not accepted and iteration == 1:
            raise ConfigError(f"no recipe may be tried: {refusals[0]}")
        return accepted

    def _judge_proposal(self, data: Any, number: int) -> tuple[Recipe | None, dict[str, Any]]:
        """The recipe, None where it is refused, and what the ledger says."""
        constraint = ""
        try:
            recipe = recipe_from_data(data, self.config)
            check_recipe(recipe, self.config)
            if recipe.name == BASE or recipe.name in self.recipes:
                raise ConfigError(f"recipe {recipe.name!r}: the name is taken")
            if recipe_hash(recipe) in map(recipe_hash, self.recipes.values()):
                raise ConfigError(f"recipe {recipe.name!r}: does what an earlier one does")
            if number > self.settings.proposals:
                raise ConfigError(
                    f"recipe {recipe.name!r}: only recipes.proposals = {self.settings.proposals} are "
                    "taken an iteration"
                )
        except (ConfigError, ConstraintError) as error:
            constraint = getattr(error, "constraint", "")
            name = data.get("name") if isinstance(data, Mapping) else None
            fields = {"recipe": name, "data": data, "verdict": "refused"}
            return None, fields | {"constraint": constraint, "reason": str(error)}
        fields = {"recipe": recipe.name, "hash": recipe_hash(recipe), "verdict": "accepted"}
        return recipe, fields | {"data": recipe_to_data(recipe), "reason": recipe.reason}

    def _context(self, iteration: int, best: Best) -> SearchContext:
        leading = self.recipes.get(best.name)
        if leading is None:
            scored = [
                (row["validation_loss"], row["recipe"])
                for row in self.ledger.rows
                if row["type"] == "rung" and row.get("validation_loss") is not None
            ]
            leading = self.recipes[min(scored)[1]] if scored else own_recipe(self.config)
        return SearchContext(
            config=self.config,
            iteration=iteration,
            limit=self.settings.proposals,
            best=leading,
            tried=frozenset(map(recipe_hash, self.recipes.values())),
            rows=self.ledger.rows,
            folder=self.folder,
        )

    def _prepare(self, iteration: int, recipes: Sequence[Recipe]) -> list[Recipe]:
        """Selects each recipe's data; those that get none fall out."""
        ready = []
        for recipe in recipes:
            key = {"type": "data", "iteration": iteration, "recipe": recipe.name}
            row: dict[str, Any] = dict(key)
            known = self.ledger.find(**key)
            if known is not None and known["verdict"] == "failed":
                continue
            try:
                with timed(row):
                    data = self.workshop.prepare(recipe, self.folder / DATA / data_hash(recipe))
            except OWN_FAILURES as error:
                self._once(key, row | _failure(error))
                continue
            self.data[recipe.name] = data
            row |= {"verdict": "ready", **data.facts, "costs": data.costs}
            known = self._once(key, row)
            if known.get("sha256") != data.facts.get("sha256"):
                raise LedgerError(
                    f"{data.examples}: differs from what the ledger says was selected; restore it or "
                    "begin in another work directory"
                )
            ready.append(recipe)
        return ready

    def _halve(self, iteration: int, recipes: Sequence[Recipe]) -> list[tuple[Recipe, Trained]]:
        """Trains on rung after rung, each with the better part of the one before."""
        running, trained = list(recipes), {}
        for rung in range(1, self.settings.rungs + 1):
            losses = {}
            for recipe in running:
                loss, result = self._rung(iteration, rung, recipe)
                if loss is not None:
                    losses[recipe.name], trained[recipe.name] = loss, result
            order = sorted(losses, key=lambda name: (losses[name], name))
            last = rung == self.settings.rungs
            kept = self.settings.survivors if last else math.ceil(len(order) / HALVING)
            kept = max(kept, min(self.settings.survivors, len(order)))
            fields = {"order": [[name, losses[name]] for name in order], "kept": order[:kept]}
            self._once({"type": "halving", "iteration": iteration, "rung": rung}, fields)
            running = [self.recipes[name] for name in order[:kept]]
        return [(recipe, trained[recipe.name]) for recipe in running]

    def _rung(
        self, iteration: int, rung: int, recipe: Recipe
    ) -> tuple[float | None, Trained | None]:
        """One training and its validation loss; None where the recipe fails."""
        key = {"type": "rung", "iteration": iteration, "rung": rung, "recipe": recipe.name}
        epochs = rung_epochs(recipe.training.epochs, rung, self.settings.rungs)
        known = self.ledger.find(**key)
        if known is not None and known["verdict"] == "failed":
            return None, None
        row: dict[str, Any] = {**key, "epochs": epochs}
        folder = self.folder / TRIED / recipe.name / f"train_{epochs}"
        try:
            with timed(row):
                trained = self.workshop.train(recipe, self.data[recipe.name], epochs, folder)
                loss = (
                    known["validation_loss"] if known else self.workshop.validate(recipe, trained)
                )
            if not math.isfinite(loss):
                raise TrainingError(f"the validation loss is {loss}")
        except OWN_FAILURES as error:
            self._once(key, row | _failure(error))
            return None, None
        row |= {"verdict": "trained", **trained.facts, "validation_loss": loss}
        self._once(key, row | {"costs": trained.costs})
        return loss, trained

    def _gate(self, iteration: int, recipe: Recipe, trained: Trained, best: Best) -> Best:
        """Plays a survivor on the gate seeds; the new lead."""
        key = {"type": "gate", "iteration": iteration, "recipe": recipe.name}
        row: dict[str, Any] = dict(key)
        with timed(row):
            played = self.workshop.play(recipe.name, trained.adapter)
        result = judge(
            best.played.progression,
            played.progression,
            self.gate_seeds,
            level=(1 - self.settings.confidence) / self._most_gates(),
            config=self.config.architect.gate,
            samples=self.settings.bootstrap_samples,
            candidate_failed=played.failed,
            baseline_failed=best.played.failed,
        )
        row |= {
            "against": best.name,
            "gate": result.to_data(),
            "verdict": "kept" if result.kept else "dropped",
            "reason": result.reason,
            "costs": played.costs,
        }
        row = self._once(key, row)
        return Best(recipe.name, trained.adapter, played) if row["verdict"] == "kept" else best

    def _most_gates(self) -> int:
        """Verdicts there can be in all: the chance of a wrong one is divided among them."""
        return max(1, self.settings.iterations * self.settings.survivors)

    def _finish(self, best: Best) -> Best:
        recipe = self.recipes.get(best.name)
        mean = sum(best.played.progression.values()) / max(1, len(best.played.progression))
        write_json(
            self.folder / "best.json",
            {
                "best": best.name,
                "gate_mean": mean,
                "recipe": recipe_to_data(recipe) if recipe else None,
                "adapter": str(best.adapter.relative_to(self.folder)) if best.adapter else None,
            },
        )
        costs = {k: v for k, v in totals(self.ledger.rows).items() if k != "seconds"}
        self._once({"type": "end"}, {"best": best.name, "costs_in_all": costs})
        return best


def rung_epochs(epochs: int, rung: int, rungs: int) -> int:
    """Epochs of rung `rung` (from 1): all of them in the last, half as many in each before, at least 1."""
    return max(1, math.ceil(epochs / HALVING ** (rungs - rung)))


def _failure(error: Exception) -> dict[str, Any]:
    reason = " ".join(str(error).split())[:600]
    constraint = getattr(error, "constraint", "")
    return {"verdict": "failed", "constraint": constraint, "reason": reason}
