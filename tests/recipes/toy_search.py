"""A workshop without models: what a recipe is worth follows from its learning rate and epochs.

Every call writes what it did, as the real one does, so that a killed search finds it again. `strike` is
called before and after everything that is done: a test can stop the process there.
"""

import json

from automem_jax.config import ExperimentConfig, RecipesConfig, SeedsConfig, seed_sets
from automem_jax.files import write_json
from automem_jax.recipes.search import BASE, Played, Prepared, Trained
from automem_jax.selection import SelectionError


def make_config(**recipes):
    fields = {"iterations": 2, "proposals": 4, "rungs": 2, "bootstrap_samples": 200} | recipes
    return ExperimentConfig(
        seeds=SeedsConfig(
            search_start=100,
            search=4,
            gate_start=200,
            gate=12,
            collect_start=300,
            collect=20,
            heldout_start=400,
            heldout=4,
        ),
        recipes=RecipesConfig(**fields),
    )


class ToyWorkshop:
    """Progression on the gate is better the nearer the learning rate is to 1e-3."""

    def __init__(self, config, folder, strike=lambda: None):
        self.config, self.folder, self.strike = config, folder, strike
        self.done = []

    def identity(self):
        return {"base_hash": "b", "template_hash": "t"}

    def _finished(self, path, content):
        self.strike()
        if not path.exists():
            self.done.append(path.name)
            write_json(path, content)
        self.strike()
        return json.loads(path.read_text())

    def prepare(self, recipe, folder):
        if recipe.data.selection.max_examples == 800:
            raise SelectionError("none of 9 memory turns was kept")
        size = self._finished(folder / "examples.json", recipe.data.selection.max_examples)
        return Prepared(folder / "examples.json", {"examples": size, "sha256": f"{size:x}"}, {})

    def train(self, recipe, data, epochs, folder):
        rate = recipe.training.learning_rate
        loss = abs(rate - 1e-3) * 100 + 1 / (1 + epochs)
        facts = {"loss": loss, "adapter_hash": f"{rate} {epochs}", "rate": rate}
        self._finished(folder / "adapter.json", facts)
        return Trained(folder / "adapter.json", facts, {"trained_tokens": 100 * epochs})

    def validate(self, recipe, trained):
        self.strike()
        return json.loads(trained.adapter.read_text())["loss"]

    def play(self, name, adapter):
        rate = json.loads(adapter.read_text())["rate"] if adapter else 0.0
        good = max(0.0, 1 - abs(rate - 1e-3) / 1e-3)
        seeds = seed_sets(self.config.seeds)["gate"]
        scores = {str(s): float((s % 12) / 12 < good) for s in seeds}
        scores = self._finished(self.folder / "played" / f"{name}.json", scores)
        assert (name == BASE) == (adapter is None)
        return Played({int(s): v for s, v in scores.items()}, 0, {"played_tokens": 1000})
