"""Adapter training from examples.jsonl to adapter.safetensors; stop it anywhere, run it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from flax import nnx

from automem_jax.config import MeshConfig, TrainingConfig, config_hash
from automem_jax.distributed import barrier, fetch, put
from automem_jax.files import write_atomically
from automem_jax.models.decoder import BaseWeight, Decoder
from automem_jax.models.lora import Adapter, get_adapter, save_adapter, set_adapter, with_adapters
from automem_jax.models.lora import add_adapters as add_fresh_adapters
from automem_jax.models.settings import Settings
from automem_jax.models.weights import base_hash
from automem_jax.sharding import variable_sharding
from automem_jax.text.tokenizer import Tokenizer
from automem_jax.training import data
from automem_jax.training.checkpoint import Checkpoints, checksums, require_same
from automem_jax.training.feed import Feed, training_mesh
from automem_jax.training.metrics import Metrics
from automem_jax.training.objective_data import load_for, packer_of
from automem_jax.training.objectives import objective_of
from automem_jax.training.optimizer import learning_rate, make_optimizer
from automem_jax.training.preemption import Preempted, Preemption
from automem_jax.training.step import (
    Partition,
    TrainState,
    initial_state,
    make_score,
    make_train_step,
    partition,
)

ADAPTER_FILE = "adapter.safetensors"
DONE_FILE = "done.json"
METRICS_FILE = "metrics.jsonl"
ITEMS_NAMED = 8

# How a run is carried out, not what it computes: an interrupted run may go on with other values.
EXECUTION = {
    "mesh": MeshConfig(),
    "microbatch_rows": 0,
    "attention": "auto",
    "remat": "none",
    "loss_chunk": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
}

Report = Callable[[int, int, dict[str, float]], None]


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
      adapter: path of the adapter file.
      steps: optimizer steps taken in all.
      final_loss: mean a supervised token, at the last step.
      base_hash: of the frozen base, the same before and after.
      items, dropped, shortened: what was trained on, left out (by reason), and shortened to fit.
      fill: share of packed tokens that are not padding.
      retokenised: learnt turns that were encoded anew, not in the tokens that the sampler drew.
      prefix_saving: share of the items' tokens that shared prefixes save.
      heldout_items, heldout_loss, best_step: held-out items, the least loss on them, and the step whose
        adapter this is (the last one where nothing was held out).
      stopped_early: patience ran out.
    """

    adapter: Path
    steps: int
    final_loss: float
    base_hash: str
    items: int
    dropped: dict[str, int]
    shortened: int
    fill: float
    retokenised: int = 0
    prefix_saving: float = 0.0
    heldout_items: int = 0
    heldout_loss: float | None = None
    best_step: int = 0
    stopped_early: bool = False


@dataclass
class Progress:
    """What the loop knows besides the state; saved with every checkpoint.

    Attributes:
      figures: of the last step taken.
      best_loss, best_step: least held-out loss and where; infinite before the first score.
      worse: scores in a row that were no better.
    """

    figures: dict[str, float] = field(default_factory=dict)
    best_loss: float = math.inf
    best_step: int = 0
    worse: int = 0

    def notes(self) -> dict[str, Any]:
        """For a checkpoint; JSON knows no infinity."""
        best = None if math.isinf(self.best_loss) else self.best_loss
        return {"best_loss": best, "best_step": self.best_step, "worse": self.worse}

    def restore(self, notes: dict[str, Any]) -> None:
        """What `notes` gave."""
        best = notes["best_loss"]
        self.best_loss = math.inf if best is None else best
        self.best_step, self.worse = notes["best_step"], notes["worse"]

    def score(self, step: int, loss: float) -> bool:
        """Counts a held-out loss in; whether it is the least so far."""
        better = loss < self.best_loss
        if better:
            self.best_loss, self.best_step, self.worse = loss, step, 0
        else:
            self.worse += 1
        return better


def train(
    config: TrainingConfig,
    model: Decoder,
    tokenizer: Tokenizer,
    examples_path: str | Path,
    out_dir: str | Path,
    progress: Report | None = None,
    *,
    start: Adapter | None = None,
) -> TrainResult:
    """Trains one fresh adapter beside `model`'s frozen base, which is left as it is.

    Writes metrics.jsonl (a line a step), checkpoints/, adapter.safetensors and, last, done.json. A run
    that was killed goes on from its newest checkpoint and ends with the losses of an unbroken one; a
    finished one is not done again. Under `jax.distributed` every process calls this alike.

    Args:
      examples_path: examples, or pairs where `config.objective` is dpo (see objective_data).
      progress: called after each step with steps done, steps in all, and the step's figures.
      start: the adapter to go on from, of `config.lora`'s shape; a fresh one unless given.

    Raises:
      DataError: an example cannot be trained on.
      AdapterError: `start` has another rank, alpha or targets.
      ShardingError: the mesh does not fit the devices or the rows.
      CheckpointError: `out_dir` holds another run (base, configuration or examples differ), or a
        checkpoint cannot be written.
      TrainingError: the loss or gradient is not finite, or the base changed.
      Preempted: SIGTERM came; the state is saved.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    base_before = _hash_of_base(model)
    identity = {
        "base": base_before,
        "configuration": config_hash(dataclasses.replace(config, **EXECUTION)),
        "examples": hashlib.sha256(Path(examples_path).read_bytes()).hexdigest(),
        "tokenizer": f"{tokenizer.chat_format}, {tokenizer.vocab_size} tokens",
    }
    if start is not None:
        identity["start"] = start.hash()
    finished = _finished(out, identity)
    if finished is not None:
        return finished

    dataset = load_for(config, examples_path, tokenizer)
    mesh = training_mesh(config)
    with jax.set_mesh(mesh):
        run = TrainingRun(config, model, dataset, tokenizer.pad_id, mesh, start)
        base_sums = checksums(run.parts.frozen)
        with Checkpoints(
            out / "checkpoints", keep=config.keep_checkpoints, identity=identity
        ) as checkpoints:
            state, noted = run.steps(checkpoints, out / METRICS_FILE, progress)
            if noted.best_step and noted.best_step != int(state.step):
                state = checkpoints.restore(state, noted.best_step).state
        adapter = run.adapter(state)
        same = checksums(run.parts.frozen) == base_sums
    base_after = "other weights"
    if same:  # a base that lies on several hosts is not fetched a second time
        base_after = base_hash(run.specialist) if jax.process_count() == 1 else base_before
    if base_after != base_before:
        raise TrainingError(
            f"the frozen base changed from {base_before} to {base_after}; report this"
        )
    result = TrainResult(
        adapter=out / ADAPTER_FILE,
        steps=noted.figures["step"],
        final_loss=noted.figures["loss"],
        base_hash=base_before,
        items=len(run.items),
        dropped=dataset.dropped,
        shortened=dataset.shortened,
        retokenised=dataset.retokenised,
        fill=run.plan.fill,
        prefix_saving=run.plan.saving,
        heldout_items=len(run.heldout),
        heldout_loss=None if math.isinf(noted.best_loss) else noted.best_loss,
        best_step=noted.best_step or noted.figures["step"],
        stopped_early=noted.figures["step"] < run.plan.steps,
    )
    if jax.process_index() == 0:
        save_adapter(out / ADAPTER_FILE, adapter, base_before)
        _write_done(out, result, adapter, identity, base_after)
    barrier("training is written")
    return result


class TrainingRun:
    """One training, laid out over a mesh: items, compiled functions and the loop over steps."""

    def __init__(
        self,
        config: TrainingConfig,
        model: Decoder,
        dataset: data.Dataset,
        pad_id: int,
        mesh,
        start: Adapter | None = None,
    ):
        self.config, self.mesh, self.pad_id = config, mesh, pad_id
        self.items, self.heldout = data.split_heldout(
            dataset.items, config.heldout_share, config.seed
        )
        packing = {"packing": config.packing, "share_prefix": config.share_prefix}
        self.pack, objective = packer_of(config), objective_of(config)
        packing |= {"row_tokens": config.row_tokens, "seed": config.seed, "pack": self.pack}
        self.plan = data.plan_rows(
            self.items, batch_rows=config.batch_rows, epochs=config.epochs, **packing
        )
        self.specialist = on_mesh(model, config, mesh, start)
        self.parts: Partition = partition(self.specialist)
        self.schedule = learning_rate(config, self.plan.steps)
        self.optimizer = make_optimizer(config, self.plan.steps)
        microbatches = config.batch_rows // (config.microbatch_rows or config.batch_rows)
        self.step = make_train_step(
            self.parts,
            self.optimizer,
            microbatches=microbatches,
            loss_chunk=config.loss_chunk,
            dropout=config.lora.dropout > 0,
            mesh=mesh,
            objective=objective,
        )
        self.feed = Feed(mesh, config.batch_rows)
        if self.heldout:
            rows = config.microbatch_rows or config.batch_rows
            self.heldout_plan = data.plan_rows(self.heldout, batch_rows=rows, epochs=1, **packing)
            self.heldout_feed = Feed(mesh, rows)
            self.score = make_score(
                self.parts, loss_chunk=config.loss_chunk, mesh=mesh, objective=objective
            )

    def steps(
        self, checkpoints: Checkpoints, metrics_path: Path, report: Report | None
    ) -> tuple[TrainState, Progress]:
        """From the newest checkpoint, or the start, to the last step."""
        config, total = self.config, self.plan.steps
        state = initial_state(self.parts, self.optimizer, config.seed, self.mesh)
        batches = data.batches_of(self.plan, self.items, self.pad_id, self.feed.own_rows, self.pack)
        input_iterator = iter(batches.to_iter_dataset(grain.ReadOptions(2, 8)))
        noted = Progress()
        restored = checkpoints.restore(state)
        if restored is not None:
            state = restored.state
            input_iterator.set_state(restored.iterator)
            noted.restore(restored.notes)
        first_step = int(state.step)
        log = Metrics(metrics_path, first_step)
        noted.figures = log.last
        saved = first_step

        def save(loss: float | None = None) -> None:
            nonlocal saved
            checkpoints.save(
                state, input_iterator.get_state(), notes=noted.notes(), heldout_loss=loss
            )
            saved = int(state.step)

        with log, Preemption() as preemption:
            for step in range(first_step + 1, total + 1):
                if config.patience and noted.worse >= config.patience:
                    break
                started = time.perf_counter()
                batch = next(input_iterator)
                state, device_figures = self.step(state, self.feed(batch))
                figures = self._figures(step, batch, device_figures, started)
                heldout_loss = self._heldout_loss(state, step)
                better = False
                if heldout_loss is not None:
                    figures["heldout_loss"] = heldout_loss
                    better = noted.score(step, heldout_loss)
                noted.figures = {"step": step, **figures}
                log.write(noted.figures)
                if better or (step % config.checkpoint_every == 0 and step < total):
                    save(heldout_loss)
                if report is not None:
                    report(step, total, figures)
                if preemption.requested(step) and step < total:
                    if saved != step:
                        save()
                    checkpoints.wait()
                    stop = Preempted(step)
                    print(f"{stop}; the same command goes on from there", file=sys.stderr)
                    raise stop
        return state, noted

    def adapter(self, state: TrainState) -> Adapter:
        """The trained adapter, on the host."""
        params = {path: fetch(value) for path, value in state.params.items()}
        self.parts.install(self.specialist, params)
        return get_adapter(self.specialist, 1)

    def _figures(
        self, step: int, batch: dict[str, np.ndarray], device_figures: dict, started: float
    ) -> dict[str, float]:
        """The step's figures as numbers; waits for the step.

        Raises:
          TrainingError: one of them is not finite; names the step and its items.
        """
        row_loss = np.asarray(device_figures.pop("row_loss"))
        figures = {name: float(value) for name, value in device_figures.items()}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(figures[name]):
                raise TrainingError(
                    f"step {step}: {name} is {figures[name]}; its items: "
                    f"{self._named_items(step, row_loss)}; look at them or lower "
                    "training.learning_rate; the last checkpoint is from before this step"
                )
        placed = float(np.mean((batch["ends"] if "ends" in batch else batch["segment_ids"]) > 0))
        figures["learning_rate"] = float(self.schedule(step - 1))
        size = self.config.batch_rows * self.config.row_tokens
        figures["tokens_per_s"] = size / (time.perf_counter() - started)
        figures["fill"] = placed
        return figures

    def _named_items(self, step: int, row_loss: np.ndarray) -> str:
        rows = self.plan.step_rows(step)
        wrong = [row for row, loss in zip(rows, row_loss, strict=True) if not np.isfinite(loss)]
        names = [self.items[i].name for row in wrong or rows for i in row]
        more = f" and {len(names) - ITEMS_NAMED} more" if len(names) > ITEMS_NAMED else ""
        return "; ".join(names[:ITEMS_NAMED]) + more

    def _heldout_loss(self, state: TrainState, step: int) -> float | None:
        """Mean loss a supervised token of the held-out items, where this step is scored."""
        every = self.config.heldout_every or self.config.checkpoint_every
        if not self.heldout or (step % every and step < self.plan.steps):
            return None
        total, count = 0.0, 0.0
        own = self.heldout_feed.own_rows
        for batch in data.batches_of(self.heldout_plan, self.heldout, self.pad_id, own, self.pack):
            sums = self.score(state.params, self.heldout_feed(batch))
            total, count = total + float(sums[0]), count + float(sums[1])
        return total / count


def on_mesh(model: Decoder, config: TrainingConfig, mesh, start: Adapter | None) -> Decoder:
    """A model on `mesh` with the base's weights and one adapter, new or a copy of `start`; `model`
    itself gets none."""
    specialist = with_adapters(model, [])
    lora = config.lora
    rngs = nnx.Rngs(params=config.seed)
    add_fresh_adapters(specialist, 1, lora.rank, lora.alpha, lora.targets, rngs, lora.dropout)
    if start is not None:
        set_adapter(specialist, 1, start)
    specialist.settings = Settings(attention=config.attention, remat=config.remat)
    for variable in _variables(specialist):
        variable.set_value(put(variable.get_value(), variable_sharding(variable, mesh)))
    return specialist


def _variables(model: Decoder) -> Iterator[nnx.Variable]:
    return (v for _, v in nnx.iter_graph(model) if isinstance(v, nnx.Variable))


def _hash_of_base(model: Decoder) -> str:
    """`base_hash`; of weights that lie on several hosts, a checksum that is computed where they lie."""
    base = [v.get_value() for v in _variables(model) if isinstance(v, BaseWeight)]
    if all(value.is_fully_addressable for value in base):
        return base_hash(model)
    sums = json.dumps(checksums(base)).encode()
    return "checksums-" + hashlib.sha256(sums).hexdigest()


def _write_done(
    out: Path, result: TrainResult, adapter: Adapter, identity: dict[str, str], base_after: str
) -> None:
    facts: dict[str, Any] = dataclasses.asdict(result)
    facts |= {
        "adapter": ADAPTER_FILE,
        "adapter_hash": adapter.hash(),
        "base_hash_before": result.base_hash,
        "base_hash_after": base_after,
        "identity": identity,
    }
    write_atomically(out / DONE_FILE, json.dumps(facts, indent=1) + "\n")


def _finished(out: Path, identity: dict[str, str]) -> TrainResult | None:
    """The result on disk, if there is one.

    Raises:
      CheckpointError: it is of another base, configuration or data.
    """
    path = out / DONE_FILE
    if not path.exists() or not (out / ADAPTER_FILE).exists():
        return None
    facts = json.loads(path.read_text())
    require_same(facts["identity"], identity, str(path))
    names = {f.name for f in dataclasses.fields(TrainResult)}
    known = {name: value for name, value in facts.items() if name in names}
    return TrainResult(**{**known, "adapter": out / ADAPTER_FILE})
