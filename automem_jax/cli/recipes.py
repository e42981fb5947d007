"""Loop 2's outer search: which data and which LoRA settings make the best memory specialist.

automem recipes [RECIPES.json] tries recipes (those of the file, a list, or proposed ones), scores them on
held-out decisions, and plays the survivors on the gate seeds. The ledger is WORKDIR/recipes/ledger.jsonl,
the result WORKDIR/recipes/best.json and, where a recipe won, WORKDIR/train/recipe/adapter.safetensors.
Interrupted anywhere, the same command goes on.
"""

import json
from pathlib import Path

from automem_jax import stages
from automem_jax.cli import flags

POSITIONAL = ("recipes",)


def main(experiment: flags.Experiment) -> None:
    given = _given(experiment.arguments[0]) if experiment.arguments else None
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "recipes") as loop:
        loop.recipes(given)


def _given(path: str) -> list:
    try:
        recipes = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise flags.UsageError(f"{path} is not JSON ({error})") from error
    if isinstance(recipes, dict):
        recipes = [recipes]
    if not isinstance(recipes, list) or not recipes:
        raise flags.UsageError(f"{path}: expected a recipe or a list of recipes")
    return recipes
