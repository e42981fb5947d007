"""Measures the training step: tokens/s, packing, share of the machine's own matmul peak, memory.

FLOP by formula, of what a step must compute, padding and recomputation not counted. N base weights of the
layers' projections, A adapter weights, L layers, H heads, C head_dim, D model, V vocabulary:

    a token that is not padding    4 N + 4 A     forward and the gradient of the inputs, each one product of
                                                 kernel and adapter together; the gradient of A and B
    a token at position p          12 L H C (p + 1)   scores and values of attention, forward and twice back
    a supervised token             4 D V         unembedding, forward and back to the hidden state

Multiply and add count as two.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from automem_jax.config import TrainingConfig
from automem_jax.files import write_json
from automem_jax.models.decoder import BaseWeight, Decoder
from automem_jax.training import data
from automem_jax.training.feed import training_mesh
from automem_jax.training.loop import TrainingRun
from automem_jax.training.packing import Item
from automem_jax.training.step import initial_state

PEAK_SIZES = {"cpu": (1024, 2048), "gpu": (8192,), "tpu": (8192,)}
TORCH_SCRIPT = Path(__file__).with_name("train_torch.py")


def matmul_peak(dtype: Any, seconds: float = 2.0) -> float:
    """FLOP/s of the best large square matrix product on one device, measured for about `seconds`."""
    best = 0.0
    sizes = PEAK_SIZES.get(jax.default_backend(), (4096,))
    for size in sizes:
        x = jnp.ones((size, size), dtype)
        product = jax.jit(jnp.matmul)
        product(x, x).block_until_ready()
        deadline = time.perf_counter() + seconds / len(sizes)
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            product(x, x).block_until_ready()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def step_flop(model: Decoder, batch: dict[str, np.ndarray]) -> float:
    """FLOP of one step by the formula above. `model` holds the adapter."""
    c = model.config
    query, key = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    projections = c.num_layers * (c.d_model * (2 * query + 2 * key) + 3 * c.d_model * c.d_ff)
    adapters = sum(v.size for v in _values(model, nnx.LoRAParam)) // max(1, model.adapter_count)
    seen = batch["ends"] if "ends" in batch else batch["segment_ids"]
    positions = batch["positions"][seen > 0].astype(np.float64)
    supervised = np.count_nonzero(batch["label_weights"])
    attention = 12 * c.num_layers * query * (positions + 1).sum()
    tokens = (4 * projections + 4 * adapters) * len(positions)
    return float(tokens + attention + 4 * c.d_model * c.vocab_size * supervised)


def measure(
    config: TrainingConfig,
    model: Decoder,
    dataset: data.Dataset,
    pad_id: int,
    steps: int,
    other: TorchJob | None = None,
) -> dict[str, Any]:
    """Takes `steps` training steps as `automem train` does, after one that compiles.

    What else runs on the machine disturbs everything alike: the peak is measured before and after every
    step, and `other` takes a step on the same items between them. Rates are totals over all
    steps; the share of the peak is the median over steps.

    Tokens of rows are counted without padding; `item_tokens_per_s` counts a shared prefix once for
    every item that it serves.
    """
    mesh = training_mesh(config)
    with jax.set_mesh(mesh):
        dtype = _values(model, BaseWeight)[0].dtype
        matmul_peak(dtype)  # compiles
        run = TrainingRun(config, model, dataset, pad_id, mesh)
        state = initial_state(run.parts, run.optimizer, config.seed, mesh)
        batches = data.batches_of(run.plan, run.items, pad_id, run.feed.own_rows)
        taken = [_Step() for _ in range(steps + 1)]
        for number, step in enumerate(taken):
            batch = batches[number % run.plan.steps]
            indices = [i for row in run.plan.step_rows(number % run.plan.steps + 1) for i in row]
            step.peaks.append(matmul_peak(dtype, 0.5))
            started = time.perf_counter()
            state, figures = run.step(state, run.feed(batch))
            step.loss = float(figures["loss"])
            step.seconds = time.perf_counter() - started
            step.peaks.append(matmul_peak(dtype, 0.5))
            seen = batch["ends"] if "ends" in batch else batch["segment_ids"]
            step.tokens, step.padded = int(np.count_nonzero(seen)), seen.size
            step.item_tokens = sum(len(run.items[i]) for i in indices)
            step.supervised = sum(np.count_nonzero(run.items[i].weights[1:]) for i in indices)
            step.flop = step_flop(run.specialist, batch)
            if other is not None:
                other.step([run.items[i] for i in indices])
        first, timed = taken[0], taken[1:]
        total = {
            name: float(sum(getattr(step, name) for step in timed))
            for name in ("seconds", "tokens", "padded", "item_tokens", "supervised", "flop")
        }
    seconds = total["seconds"]
    peaks = [sum(step.peaks) / 2 * mesh.size for step in timed]
    shares = [step.flop / step.seconds / peak for step, peak in zip(timed, peaks, strict=True)]
    return {
        "steps": steps,
        "rows_a_step": config.batch_rows,
        "row_tokens": config.row_tokens,
        "step_s": seconds / steps,
        "compile_s": first.seconds - seconds / steps,
        "tokens_per_s": total["tokens"] / seconds,
        "item_tokens_per_s": total["item_tokens"] / seconds,
        "supervised_tokens_per_s": total["supervised"] / seconds,
        "fill": total["tokens"] / total["padded"],
        "fill_of_all_rows": run.plan.fill,
        "prefix_saving": run.plan.saving,
        "flop_per_s": total["flop"] / seconds,
        "matmul_peak_flop_per_s": float(np.median(peaks)),
        "share_of_peak": float(np.median(shares)),
        "dtype": str(dtype),
        "peak_memory_gib": peak_memory_gib(),
        "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "losses": [step.loss for step in taken],
    }


@dataclasses.dataclass
class _Step:
    """What one step took: FLOP/s of matmul before and after it, seconds, counts of tokens, FLOP."""

    peaks: list[float] = dataclasses.field(default_factory=list)
    loss: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    padded: int = 0
    item_tokens: int = 0
    supervised: int = 0
    flop: float = 0.0


def _values(model: Decoder, kind: type) -> list[jax.Array]:
    return [v.get_value() for _, v in nnx.iter_graph(model) if isinstance(v, kind)]


def peak_memory_gib() -> float:
    """Greatest use of one device's memory so far; on CPU, of this process."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class TorchJob:
    """The same job by transformers + PEFT, in a process that waits between steps; see train_torch.

    Weights are random, of the model's shape: speed does not depend on them. `figures` tells what was
    measured, or {"why": ...} where torch, transformers or peft are not there.
    """

    def __init__(
        self, python: str, config: TrainingConfig, model: Decoder, items: Sequence[Item]
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._row_tokens, self._number = config.row_tokens, {id(x): i for i, x in enumerate(items)}
        self._items = items
        self._taken: dict[str, list[dict[str, float]]] = {"unpadded": [], "padded": []}
        self.threads = len(os.sched_getaffinity(0))
        write_json(folder / "config.json", model.config.to_hf())
        np.savez(
            folder / "items.npz",
            lengths=np.array([len(item) for item in items]),
            ids=np.concatenate([item.ids for item in items]),
            weights=np.concatenate([item.weights for item in items]),
        )
        job = {"learning_rate": config.learning_rate, "threads": self.threads}
        write_json(folder / "job.json", dataclasses.asdict(config.lora) | job)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"}
        self._errors = open(folder / "stderr", "w+")
        self._process = subprocess.Popen(
            [python or sys.executable, str(TORCH_SCRIPT), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self._running = self._process.stdout.readline().strip() == "ready"

    def step(self, items: Sequence[Item]) -> None:
        """One optimizer step on these items at their own lengths, and one on the first, padded to a row."""
        numbers = [self._number[id(item)] for item in items]
        for name, chosen, pad_to in (
            ("unpadded", numbers, 0),
            ("padded", numbers[:1], self._row_tokens),
        ):
            if self._running:
                self._process.stdin.write(json.dumps({"items": chosen, "pad_to": pad_to}) + "\n")
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
                self._running = bool(answer)
            if self._running:
                self._taken[name].append(json.loads(answer) | {"rows": len(chosen)})

    def figures(self) -> dict[str, Any]:
        """Ends the process. Rates without the first step, which warms up."""
        finished = self._running
        self._process.stdin.close()
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        self._errors.close()
        self._folder.cleanup()
        if not finished:
            return {"why": lines[-1] if lines else f"exit status {status}"}
        found: dict[str, Any] = {"threads": self.threads}
        for name, taken in self._taken.items():
            total = {key: sum(step[key] for step in taken[1:]) for key in taken[0]}
            computed = total["tokens"]
            if name == "padded":
                computed = total["rows"] * self._row_tokens
            found[name] = total | {
                "item_tokens_per_s": total["tokens"] / total["seconds"],
                "supervised_tokens_per_s": total["supervised"] / total["seconds"],
                "row_tokens_per_s": computed / total["seconds"],
            }
        return found
