"""Online rounds: collect with the specialist, select, train on from its adapter; drift is watched.

Each round leaves a record on disk when it is whole, and is not done again. A round whose adapter has left
the base too far on the tokens it was trained on is dropped, and no other follows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automem_jax.agent.template import Template
from automem_jax.config import ConfigError, ExperimentConfig, TrainingConfig, seed_sets
from automem_jax.files import write_json
from automem_jax.recipes.constraints import check_examples, check_seeds
from automem_jax.recipes.preferences import write_pairs
from automem_jax.recipes.workshop import PAIRS_FILE, played_tokens
from automem_jax.rollout.runner import Runner
from automem_jax.selection import SelectionError, SelectionReport, select

if TYPE_CHECKING:
    from automem_jax.training.loop import Report

RECORD = "online.json"


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
      number: from 1. kept: whether its adapter goes on. reason: why it does not.
      played_tokens, examples, steps: what it took.
      adapter: path under the work directory; empty where nothing was trained.
      kl: nats a memory token between specialist and base, on the round's examples.
      loss: mean loss a supervised token there.
    """

    number: int
    kept: bool
    reason: str
    played_tokens: int
    examples: int = 0
    steps: int = 0
    adapter: str = ""
    kl: float | None = None
    loss: float | None = None


def run_rounds(
    config: ExperimentConfig,
    workdir: Path,
    runner: Runner,
    template: Template,
    first: Path,
    choose: Callable[..., SelectionReport] = select,
    report: Report | None = None,
) -> tuple[list[Round], Path]:
    """Plays `config.online.rounds` rounds from adapter `first`; the rounds, and the last adapter kept.

    Args:
      choose, report: as of workshop.OwnWorkshop.

    Raises:
      ConfigError: the adapter was trained with other LoRA settings than the config's.
      ConstraintError: a round would train on search, gate or held-out seeds.
    """
    from automem_jax.models.lora import load_adapter

    best, rounds = first, []
    for number in range(1, config.online.rounds + 1):
        record = workdir / "train" / f"online_{number}" / "round.json"
        if record.exists():
            done = Round(**json.loads(record.read_text(encoding="utf-8")))
        else:
            _check_shape(load_adapter(best), config, best)
            done = _play_round(config, workdir, runner, template, number, best, choose, report)
            write_json(record, dataclasses.asdict(done))
        rounds.append(done)
        if not done.kept:
            break
        best = workdir / done.adapter
    _write_record(workdir, rounds, best)
    return rounds, best


def _play_round(
    config: ExperimentConfig,
    workdir: Path,
    runner: Runner,
    template: Template,
    number: int,
    adapter: Path,
    choose: Callable[..., SelectionReport],
    report: Report | None,
) -> Round:
    """One round from `adapter` on. Where no decision is worth training on (all episodes won, say), it
    trains nothing and is not kept."""
    from automem_jax.models.lora import load_adapter
    from automem_jax.training.loop import train
    from automem_jax.training.scoring import score_adapter

    name, training = f"online_{number}", online_training(config)
    seeds = round_seeds(config, number)
    check_seeds(seeds, config, f"online round {number}")
    place = workdir / "traces" / "online" / name
    paths = runner.run(name, template, seeds, place, adapter=adapter).paths
    played = played_tokens(paths)["played_tokens"]
    sets = seed_sets(config.seeds)
    forbidden = {seed for n in ("search", "gate", "heldout") for seed in sets[n]}
    selection = config.selection
    if selection.kind == "random":
        selection = dataclasses.replace(selection, kind="lineage")
    folder = workdir / "select" / name
    try:
        chosen = choose(paths, selection, folder, forbidden_seeds=forbidden)
    except SelectionError as error:
        return Round(number, False, str(error), played)
    examples = Path(chosen.examples)
    check_examples(examples, seeds, config)
    learnt = examples
    if training.objective == "dpo":
        learnt = folder / PAIRS_FILE
        write_pairs(examples, paths, learnt)
    out, model, tokenizer = workdir / "train" / name, runner.model, runner.tokenizer
    result = train(training, model, tokenizer, learnt, out, report, start=load_adapter(adapter))
    score = score_adapter(training, model, tokenizer, load_adapter(result.adapter), examples)
    far = f"KL to the base {score.kl:.3f} nats a token is above online.max_kl {config.online.max_kl:g}"
    kept = score.kl <= config.online.max_kl
    return Round(
        number=number,
        kept=kept,
        reason="" if kept else far,
        played_tokens=played,
        examples=chosen.count,
        steps=result.steps,
        adapter=str(result.adapter.relative_to(workdir)),
        kl=score.kl,
        loss=score.loss,
    )


def online_training(config: ExperimentConfig) -> TrainingConfig:
    """The training settings of a round: the experiment's, with the drift guard."""
    return dataclasses.replace(config.training, kl_weight=config.online.kl_weight)


def round_seeds(config: ExperimentConfig, number: int) -> range:
    """Environment seeds of round `number`, from 1."""
    start = config.online.first_seed + (number - 1) * config.online.episodes
    return range(start, start + config.online.episodes)


def _check_shape(adapter: Any, config: ExperimentConfig, path: Path) -> None:
    lora = config.training.lora
    for name in ("rank", "alpha", "targets"):
        if getattr(adapter, name) != getattr(lora, name):
            raise ConfigError(
                f"{path} has {name} {getattr(adapter, name)!r}, training.lora.{name} is "
                f"{getattr(lora, name)!r}; online rounds train it on, so set them alike"
            )


def _write_record(workdir: Path, rounds: Iterable[Round], best: Path) -> None:
    try:
        name = str(best.relative_to(workdir))
    except ValueError:
        name = str(best)
    record = {"best": name, "rounds": [dataclasses.asdict(r) for r in rounds]}
    write_json(workdir / RECORD, record)
