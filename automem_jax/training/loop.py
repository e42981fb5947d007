"""Adapter training from examples.jsonl to adapter.safetensors; stop it anywhere, run it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
from flax import nnx

from automem_jax.config import TrainingConfig, config_hash
from automem_jax.files import write_atomically
from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import Adapter, get_adapter, save_adapter, with_adapters
from automem_jax.models.lora import add_adapters as add_fresh_adapters
from automem_jax.models.weights import base_hash
from automem_jax.text.tokenizer import Tokenizer
from automem_jax.training import data
from automem_jax.training.checkpoint import Checkpoints, require_same
from automem_jax.training.optimizer import learning_rate, make_optimizer
from automem_jax.training.step import initial_state, make_train_step, partition

ADAPTER_FILE = "adapter.safetensors"
DONE_FILE = "done.json"
METRICS_FILE = "metrics.jsonl"


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
      adapter: path of the adapter file.
      steps: optimizer steps in all.
      final_loss: mean a supervised token, at the last step.
      base_hash: of the frozen base, the same before and after.
      items, dropped, shortened: what was trained on, left out (by reason), and shortened to fit.
      fill: share of packed tokens that are not padding.
    """

    adapter: Path
    steps: int
    final_loss: float
    base_hash: str
    items: int
    dropped: dict[str, int]
    shortened: int
    fill: float


def train(
    config: TrainingConfig,
    model: Decoder,
    tokenizer: Tokenizer,
    examples_path: str | Path,
    out_dir: str | Path,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> TrainResult:
    """Trains one fresh adapter beside `model`'s frozen base, which is left as it is.

    Writes metrics.jsonl (a line a step), checkpoints/, adapter.safetensors and, last, done.json. A run
    that was killed goes on from its newest checkpoint and ends with the losses of an unbroken one; a
    finished one is not done again.

    Args:
      progress: called after each step with steps done, steps in all, and the step's figures.

    Raises:
      DataError: an example cannot be trained on.
      CheckpointError: `out_dir` holds another run (base, configuration or examples differ).
      TrainingError: the loss or gradient is not finite, or the base changed.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    base_before = base_hash(model)
    identity = {
        "base": base_before,
        "configuration": config_hash(
            dataclasses.replace(config, checkpoint_every=1, keep_checkpoints=1)
        ),
        "examples": hashlib.sha256(Path(examples_path).read_bytes()).hexdigest(),
        "tokenizer": f"{tokenizer.chat_format}, {tokenizer.vocab_size} tokens",
    }
    finished = _finished(out, identity)
    if finished is not None:
        return finished

    dataset = data.load_items(
        examples_path, tokenizer, loss=config.loss, row_tokens=config.row_tokens
    )
    batches = data.packed_batches(
        dataset.items,
        row_tokens=config.row_tokens,
        batch_rows=config.batch_rows,
        epochs=config.epochs,
        seed=config.seed,
        pad_id=tokenizer.pad_id,
    )
    total_steps = len(batches)
    schedule = learning_rate(config, total_steps)
    optimizer = make_optimizer(config, total_steps)
    specialist = _with_fresh_adapter(model, config)
    parts = partition(specialist)
    state = initial_state(parts, optimizer, config.seed)
    train_step = make_train_step(parts, optimizer)

    checkpoints = Checkpoints(out / "checkpoints", keep=config.keep_checkpoints, identity=identity)
    try:
        input_iterator = iter(batches.to_iter_dataset(grain.ReadOptions(2, 8)))
        restored = checkpoints.restore(state)
        if restored is not None:
            state, iterator_state = restored
            input_iterator.set_state(iterator_state)
        first_step = int(state.step)
        figures = _keep_metrics(out / METRICS_FILE, first_step)
        with open(out / METRICS_FILE, "a", encoding="utf-8") as metrics:
            for step in range(first_step + 1, total_steps + 1):
                started = time.perf_counter()
                batch = next(input_iterator)
                state, device_figures = train_step(state, batch)
                figures = {name: float(value) for name, value in device_figures.items()}
                figures["learning_rate"] = float(schedule(step - 1))
                figures["tokens_per_s"] = batch["tokens"].size / (time.perf_counter() - started)
                _require_finite(figures, step)
                metrics.write(json.dumps({"step": step, **figures}) + "\n")
                metrics.flush()
                if step % config.checkpoint_every == 0 and step < total_steps:
                    checkpoints.save(state, input_iterator.get_state())
                if progress is not None:
                    progress(step, total_steps, figures)
    finally:
        checkpoints.close()

    parts.install(specialist, state.params)
    adapter = get_adapter(specialist, 1)
    base_after = base_hash(specialist)
    if base_after != base_before:
        raise TrainingError(
            f"the frozen base changed from {base_before} to {base_after}; report this"
        )
    save_adapter(out / ADAPTER_FILE, adapter, base_before)
    result = TrainResult(
        adapter=out / ADAPTER_FILE,
        steps=total_steps,
        final_loss=figures["loss"],
        base_hash=base_before,
        items=len(dataset.items),
        dropped=dataset.dropped,
        shortened=dataset.shortened,
        fill=data.fill(dataset.items, batches, config.row_tokens, config.batch_rows, config.epochs),
    )
    _write_done(out, result, adapter, identity, base_after)
    return result


def _with_fresh_adapter(model: Decoder, config: TrainingConfig) -> Decoder:
    """A model that shares the base's arrays and has one new adapter; `model` itself gets none."""
    specialist = with_adapters(model, [])
    lora = config.lora
    add_fresh_adapters(
        specialist, 1, lora.rank, lora.alpha, lora.targets, nnx.Rngs(params=config.seed)
    )
    return specialist


def _require_finite(figures: dict[str, float], step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(figures[name]):
            raise TrainingError(
                f"step {step}: {name} is {figures[name]}; lower training.learning_rate or look at the "
                "examples of this step; the last checkpoint is from before it"
            )


def _keep_metrics(path: Path, last_step: int) -> dict[str, float]:
    """Cuts the log back to what the checkpoint knows; returns the last line kept (empty at the start)."""
    kept: list[str] = []
    if path.exists():
        # A line torn by a kill is always later than the newest checkpoint.
        kept = path.read_text(encoding="utf-8").splitlines()[:last_step]
    write_atomically(path, "".join(line + "\n" for line in kept))
    return json.loads(kept[-1]) if kept else {}


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
