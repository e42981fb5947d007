"""A recipe: which decisions the specialist is trained on, with which adapter and which loss.

A recipe is data. As JSON it may leave fields out: the experiment's own selection and training settings
then hold. It is checked field by field and never executed.

    {"name": "wide", "reason": "rank may be too small",
     "data": {"source": "reuse", "selection": {"max_examples": 800}},
     "training": {"lora": {"rank": 128, "alpha": 256.0, "targets": "all_linear"},
                  "objective": "weighted_sft", "weight_signal": "credit", "epochs": 3}}

`trains`, `two_models` and `clean_up` say what every recipe must keep; see constraints.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from automem_jax.config import (
    ConfigError,
    ExperimentConfig,
    SelectionConfig,
    TrainingConfig,
    check,
    from_config_dict,
)

SOURCES = ("reuse", "regenerate")
REASON_CHARS = 4_000
# What of TrainingConfig a recipe may choose; rows, meshes and memory are the experiment's.
TRAINING_FIELDS = (
    "lora",
    "loss",
    "objective",
    "weight_signal",
    "weighting",
    "weight_beta",
    "max_weight",
    "dpo_beta",
    "kl_weight",
    "epochs",
    "learning_rate",
    "schedule",
    "warmup",
    "weight_decay",
    "batch_rows",
    "seed",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class DataChoice:
    """Where decisions come from and which are kept.

    Attributes:
      source: reuse: the collected traces. regenerate: new episodes of the base.
      first_seed, episodes: environment seeds; -1 and 0: the collected ones, or for regenerate
        `recipes.regenerate_start` and as many as were collected.
      selection: signals, thresholds and sizes, see SelectionConfig.
    """

    source: str = "reuse"
    first_seed: int = -1
    episodes: int = 0
    selection: SelectionConfig = field(default_factory=SelectionConfig)


@dataclass(frozen=True)
class Recipe:
    """See the module's docstring. Of `training` only TRAINING_FIELDS are the recipe's. `reason` is the
    proposer's, in words; it changes nothing."""

    name: str
    data: DataChoice = field(default_factory=DataChoice)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    trains: str = "adapter"
    two_models: bool = True
    clean_up: bool = True
    reason: str = ""


def own_recipe(config: ExperimentConfig, name: str = "own") -> Recipe:
    """The experiment's own settings as a recipe."""
    return Recipe(name, DataChoice(selection=config.selection), config.training)


def recipe_from_data(data: Mapping[str, Any], config: ExperimentConfig) -> Recipe:
    """The recipe that JSON describes, checked; missing fields are the experiment's own.

    Raises:
      ConfigError: an unknown key (the nearest is named), or a value of the wrong kind or range.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ConfigError("recipe: expected an object with a name")
    name = data["name"]
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"recipe.name: {name[:80]!r} must be 1 to 64 letters, digits, '.', '_' or '-'"
        )
    own = dataclasses.asdict(own_recipe(config))
    given = data.get("training")
    for key in given if isinstance(given, Mapping) else ():
        if key in own["training"] and key not in TRAINING_FIELDS:
            raise ConfigError(f"recipe {name!r}.training.{key}: is the experiment's to say")
    recipe = from_config_dict(_merged(own, data), Recipe, f"recipe {name!r}")
    recipe = dataclasses.replace(recipe, reason=recipe.reason[:REASON_CHARS])
    if recipe.data.source not in SOURCES:
        raise ConfigError(
            f"recipe {name!r}.data.source: {recipe.data.source!r} is none of {', '.join(SOURCES)}"
        )
    if recipe.data.selection.judge.api != config.selection.judge.api:
        raise ConfigError(
            f"recipe {name!r}.data.selection.judge.api: which server is asked is the experiment's to say"
        )
    if recipe.data.episodes < 0 or recipe.data.first_seed < -1:
        raise ConfigError(f"recipe {name!r}.data: seeds and episodes must not be negative")
    try:
        check(with_recipe(config, recipe))
    except ConfigError as error:
        raise ConfigError(f"recipe {name!r}: {error}") from error
    return recipe


def recipe_to_data(recipe: Recipe) -> dict[str, Any]:
    """JSON-ready; `recipe_from_data` reads it back. What is the experiment's alone is left out: the
    judge's server, how many processes read traces, and how training is laid out."""
    data = dataclasses.asdict(recipe)
    data["training"] = {name: data["training"][name] for name in TRAINING_FIELDS}
    selection = data["data"]["selection"]
    selection["judge"].pop("api")
    selection.pop("workers")
    return data


def recipe_hash(recipe: Recipe) -> str:
    """First 16 hex digits of the SHA-256 of what a recipe does; name and reason are not part of it."""
    data = recipe_to_data(recipe)
    data["name"] = data["reason"] = ""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def data_hash(recipe: Recipe) -> str:
    """The same of what a recipe is trained on: recipes of one choice share the selected data."""
    data = recipe_to_data(recipe)["data"]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def training_config(config: ExperimentConfig, recipe: Recipe, epochs: int = 0) -> TrainingConfig:
    """The experiment's training settings under a recipe.

    Args:
      epochs: in place of the recipe's; 0: the recipe's.
    """
    chosen = recipe.training
    fields = {name: getattr(chosen, name) for name in TRAINING_FIELDS}
    fields["epochs"] = epochs or chosen.epochs
    rows = config.training.microbatch_rows
    if rows and chosen.batch_rows % rows:
        fields["microbatch_rows"] = 0
    # Held-out data is the search's, the same for all recipes.
    fields |= {"heldout_share": 0.0, "heldout_every": 0, "patience": 0}
    return dataclasses.replace(config.training, **fields)


def with_recipe(config: ExperimentConfig, recipe: Recipe) -> ExperimentConfig:
    """The experiment under a recipe."""
    return dataclasses.replace(
        config, selection=recipe.data.selection, training=training_config(config, recipe)
    )


def _merged(own: Any, given: Any) -> Any:
    """`given`, with what it leaves out of nested objects taken from `own`."""
    if not isinstance(own, Mapping) or not isinstance(given, Mapping):
        return given
    filled = {
        key: _merged(own[key], value) if key in own else value for key, value in given.items()
    }
    return {**own, **filled}
