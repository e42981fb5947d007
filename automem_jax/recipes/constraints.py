"""What no recipe may do, whoever proposes it; each refusal names its constraint.

    base_frozen       only the adapter is trained; the base's weights stay as they are
    two_models        the specialist writes memory, the unchanged base commits actions
    clean_up          every supervised turn goes through the clean-up
    evaluation_seeds  search, gate and held-out seeds are never trained on, nor those that score recipes

`check_recipe` reads the recipe, `check_examples` what was really selected under it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from automem_jax.config import ExperimentConfig, seed_sets
from automem_jax.recipes.recipe import Recipe
from automem_jax.selection import SelectionError, verify_examples

CONSTRAINTS = ("base_frozen", "two_models", "clean_up", "evaluation_seeds")


class ConstraintError(ValueError):
    """A recipe breaks a constraint, whose name is in `constraint` and in the message."""

    def __init__(self, constraint: str, message: str):
        assert constraint in CONSTRAINTS
        super().__init__(f"constraint {constraint}: {message}")
        self.constraint = constraint


def check_recipe(recipe: Recipe, config: ExperimentConfig) -> None:
    """Refuses a recipe that breaks a constraint.

    Raises:
      ConstraintError: see the module's docstring.
    """
    name = f"recipe {recipe.name!r}"
    if recipe.trains != "adapter":
        raise ConstraintError(
            "base_frozen", f"{name} trains {recipe.trains!r}; only 'adapter' may be trained"
        )
    if recipe.two_models is not True:
        raise ConstraintError(
            "two_models",
            f"{name} sets two_models to {recipe.two_models!r}; the base commits the actions, always",
        )
    if recipe.clean_up is not True:
        raise ConstraintError(
            "clean_up", f"{name} sets clean_up to {recipe.clean_up!r}; it cannot be switched off"
        )
    check_seeds(data_seeds(recipe, config), config, name)


def check_seeds(seeds: Collection[int], config: ExperimentConfig, what: str) -> None:
    """Refuses seeds that are kept for decisions about what was trained.

    Raises:
      ConstraintError: evaluation_seeds, with the first seed and its set.
    """
    for kind, kept in seed_sets(config.seeds).items():
        if kind == "collect":
            continue
        clash = sorted(set(seeds) & set(kept))
        if clash:
            raise ConstraintError(
                "evaluation_seeds",
                f"{what} trains on seed {clash[0]} ({len(clash)} such in all), which belongs to "
                f"config.seeds.{kind}",
            )


def data_seeds(recipe: Recipe, config: ExperimentConfig) -> range:
    """The environment seeds whose episodes a recipe selects from.

    Raises:
      ConstraintError: evaluation_seeds, where reused seeds were never collected.
    """
    collect = seed_sets(config.seeds)["collect"]
    reuse = recipe.data.source == "reuse"
    start = recipe.data.first_seed
    if start < 0:
        start = collect.start if reuse else config.recipes.regenerate_start
    count = recipe.data.episodes
    seeds = range(start, start + (count or len(collect)))
    if reuse:
        if not count:
            seeds = range(start, max(start + 1, collect.stop))
        check_seeds(seeds, config, f"recipe {recipe.name!r}")
        outside = [seed for seed in (seeds[0], seeds[-1]) if seed not in collect]
        if outside:
            raise ConstraintError(
                "evaluation_seeds",
                f"recipe {recipe.name!r} reuses seed {outside[0]}, which is none of config.seeds."
                f"collect ({collect.start}..{collect.stop - 1}); use source 'regenerate' for new seeds",
            )
    return seeds


def check_examples(path: Path, allowed_seeds: Collection[int], config: ExperimentConfig) -> int:
    """Checks what was selected: each example verbatim from its trace and cleaned, of allowed seeds.

    Returns how many there are.

    Raises:
      ConstraintError: clean_up or evaluation_seeds.
    """
    seeds = set()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            seeds.add(int(json.loads(line)["provenance"]["seed"]))
    check_seeds(seeds, config, str(path))
    strange = sorted(seeds - set(allowed_seeds))
    if strange:
        raise ConstraintError(
            "evaluation_seeds", f"{path}: seed {strange[0]} is none that the recipe may train on"
        )
    try:
        return verify_examples(path)
    except SelectionError as error:
        raise ConstraintError("clean_up", str(error)) from error
