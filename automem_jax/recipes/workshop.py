"""What the recipe search has done for it, with the experiment's own environment and model."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automem_jax.agent.template import Template, template_hash
from automem_jax.config import ConfigError, ExperimentConfig, seed_sets
from automem_jax.evaluation.results import episode_result
from automem_jax.files import atomic_file, write_json
from automem_jax.recipes.constraints import check_examples, data_seeds
from automem_jax.recipes.preferences import write_pairs
from automem_jax.recipes.recipe import Recipe, training_config
from automem_jax.recipes.search import BASE, Played, Prepared, Trained
from automem_jax.rollout.runner import Runner
from automem_jax.selection import SelectionReport, load_examples, select
from automem_jax.traces.store import read_trace

if TYPE_CHECKING:
    from automem_jax.training.loop import Report

PAIRS_FILE = "pairs.jsonl"
VALIDATION = "validation"


class OwnWorkshop:
    """Plays with a Runner, selects from traces on disk, trains in process.

    The collected episodes of `validation_seeds` score recipes. What the experiment's own selection keeps of
    them, with all collected episodes to measure credit by, is the validation set.

    Args:
      template: the template that the episodes were collected under.
      choose: selects decisions, as selection.select with what its signals need measured first.
      report: as of training.loop.train.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        workdir: str | Path,
        runner: Runner,
        template: Template,
        report: Report | None = None,
        choose: Callable[..., SelectionReport] = select,
    ):
        self.config, self.workdir, self.runner = config, Path(workdir), runner
        self.template, self.report, self.choose = template, report, choose
        self.folder = self.workdir / "recipes"
        self.validation_seeds = frozenset(validation_seeds(config))
        self._validation: Path | None = None

    def identity(self) -> dict[str, Any]:
        """Hashes of the base and of the template."""
        return {
            "template_hash": template_hash(self.template),
            "base_hash": self.runner.policy().describe().get("base_hash", ""),
        }

    def prepare(self, recipe: Recipe, folder: Path) -> Prepared:
        """Selects into `folder`; for dpo, writes the pairs beside."""
        seeds = [s for s in data_seeds(recipe, self.config) if s not in self.validation_seeds]
        costs: dict[str, Any] = {}
        if recipe.data.source == "reuse":
            paths = self._collected(seeds)
        else:
            place = self.workdir / "traces" / "recipes" / "regenerated"
            paths = self.runner.run("regenerated", self.template, seeds, place).paths
            costs = played_tokens(paths)
        sets = seed_sets(self.config.seeds)
        kept = {s for name in ("search", "gate", "heldout") for s in sets[name]}
        report = self.choose(
            paths,
            recipe.data.selection,
            folder,
            forbidden_seeds=kept | self.validation_seeds,
            match=self._match(recipe),
        )
        examples = Path(report.examples)
        check_examples(examples, seeds, self.config)
        facts: dict[str, Any] = {
            "examples": report.count,
            "phases": report.phases,
            "episodes": report.traces,
            "sha256": report.examples_sha256,
        }
        if recipe.training.objective == "dpo":
            pairs = folder / PAIRS_FILE
            facts["pairs"] = write_pairs(examples, paths, pairs)
            facts["pairs_sha256"] = hashlib.sha256(pairs.read_bytes()).hexdigest()
            examples = pairs
        return Prepared(examples, facts, costs)

    def train(self, recipe: Recipe, data: Prepared, epochs: int, folder: Path) -> Trained:
        """Trains beside the frozen base; goes on from a checkpoint where there is one."""
        from automem_jax.training.loop import DONE_FILE, train

        config = training_config(self.config, recipe, epochs)
        model, tokenizer = self.runner.model, self.runner.tokenizer
        result = train(config, model, tokenizer, data.examples, folder, self.report)
        done = json.loads((folder / DONE_FILE).read_text(encoding="utf-8"))
        tokens = round(result.steps * config.batch_rows * config.row_tokens * result.fill)
        facts = {
            "items": result.items,
            "steps": result.steps,
            "final_loss": result.final_loss,
            "adapter_hash": done["adapter_hash"],
            "base_hash": result.base_hash,
        }
        return Trained(result.adapter, facts, {"trained_tokens": tokens})

    def validate(self, recipe: Recipe, trained: Trained) -> float:
        """Loss on the validation decisions, masked by the experiment's own loss mode for all recipes."""
        from automem_jax.models.lora import load_adapter
        from automem_jax.training.scoring import score_adapter

        return score_adapter(
            self.config.training,
            self.runner.model,
            self.runner.tokenizer,
            load_adapter(trained.adapter),
            self.validation_set(),
        ).loss

    def play(self, name: str, adapter: Path | None) -> Played:
        """Gate episodes; those of the base are the ones that loop 1 played under the template."""
        seeds = list(seed_sets(self.config.seeds)["gate"])
        if name == BASE:
            arm, place = self.template.id, self.workdir / "traces" / "gate" / self.template.id
        else:
            arm, place = f"recipe {name}", self.workdir / "traces" / "recipes" / "gate" / name
        paths = self.runner.run(arm, self.template, seeds, place, adapter=adapter).paths
        if adapter is not None:
            self.runner.release(adapter)
        results = [episode_result(read_trace(path)) for path in paths]
        progression = {result.seed: result.progression for result in results}
        failed = sum(result.failed for result in results)
        return Played(progression, failed, played_tokens(paths))

    def validation_set(self) -> Path:
        """The validation examples; selected once.

        Raises:
          ConfigError: the experiment's own selection keeps nothing of the validation episodes.
        """
        if self._validation is None:
            place, chosen = self.folder / VALIDATION, self.folder / VALIDATION / "chosen.jsonl"
            report = self._own_selection()
            held = [
                example
                for example in load_examples(report.examples)
                if example["provenance"]["seed"] in self.validation_seeds
            ]
            if not held:
                raise ConfigError(
                    f"none of {report.count} selected decisions is of the {len(self.validation_seeds)} "
                    "validation episodes; collect more, or raise recipes.validation_share"
                )
            with atomic_file(chosen) as file:
                for example in held:
                    file.write(json.dumps(example, separators=(",", ":")).encode() + b"\n")
            write_json(place / "seeds.json", sorted(self.validation_seeds))
            self._validation = chosen
        return self._validation

    def _own_selection(self):
        paths = self._collected(seed_sets(self.config.seeds)["collect"])
        place = self.folder / VALIDATION / "all"
        return self.choose(paths, self.config.selection, place)

    def _match(self, recipe: Recipe) -> Path | None:
        """What a random control copies its number and mix of phases from."""
        if recipe.data.selection.kind != "random":
            return None
        return Path(self._own_selection().examples).with_name("selection.json")

    def _collected(self, seeds: Sequence[int]) -> list[Path]:
        place = self.workdir / "traces" / "collect" / self.template.id
        named = [place / f"{self.config.env.task}-{seed}.jsonl" for seed in seeds]
        found = [path for path in named if path.exists()]
        if not found:
            raise ConfigError(
                f"{place}: holds no collected episode; run `automem rollout --seeds=collect` with this "
                "--workdir first"
            )
        return found


def validation_seeds(config: ExperimentConfig) -> list[int]:
    """The collect seeds whose episodes score recipes: `recipes.validation_share` of them, at least one."""
    collect = list(seed_sets(config.seeds)["collect"])
    count = min(max(1, round(config.recipes.validation_share * len(collect))), len(collect) - 1)
    return sorted(random.Random(f"validation {config.seed}").sample(collect, max(count, 0)))


def played_tokens(paths: Sequence[Path]) -> dict[str, int]:
    """Tokens that these episodes took, prompts and answers together."""
    total = 0
    for path in paths:
        tokens = (read_trace(path).end or {}).get("tokens", {})
        total += tokens.get("prompt", 0) + tokens.get("completion", 0)
    return {"played_tokens": total}
