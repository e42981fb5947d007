"""Loop 2's outer search: which data and which LoRA settings make the best memory specialist."""

from automem_jax.recipes.constraints import ConstraintError, check_recipe
from automem_jax.recipes.recipe import Recipe, recipe_from_data, recipe_to_data
from automem_jax.recipes.search import search

__all__ = [
    "ConstraintError",
    "Recipe",
    "check_recipe",
    "recipe_from_data",
    "recipe_to_data",
    "search",
]
