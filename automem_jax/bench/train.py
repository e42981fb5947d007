"""Measures the training step: tokens/s, packing, share of the machine's own matmul peak, memory.

FLOP by formula, of what a step must compute, padding and recomputation not counted. N base weights of the
layers' projections, A adapter weights, L layers, H heads, C head_dim, D model, V vocabulary:

    a token that is not padding    4 N + 6 A     forward and the gradient of the inputs; adapters: theirs too
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
from collections.abc import Iterable
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
    adapters = sum(value.size for value in _values(model, nnx.LoRAParam))
    seen = batch["ends"] if "ends" in batch else batch["segment_ids"]
    positions = batch["positions"][seen > 0].astype(np.float64)
    supervised = np.count_nonzero(batch["label_weights"])
    attention = 12 * c.num_layers * query * (positions + 1).sum()
    tokens = (4 * projections + 6 * adapters) * len(positions)
    return float(tokens + attention + 4 * c.d_model * c.vocab_size * supervised)


def measure(
    config: TrainingConfig, model: Decoder, dataset: data.Dataset, pad_id: int, steps: int
) -> dict[str, Any]:
    """Takes `steps` training steps as `automem train` does, after one that compiles.

    Tokens of rows are counted without padding; `item_tokens_per_s` counts a shared prefix once for
    every item that it serves. The share of the peak is the median over steps, each against the peak
    measured just before and after it.
    """
    mesh = training_mesh(config)
    with jax.set_mesh(mesh):
        dtype = _values(model, BaseWeight)[0].dtype
        matmul_peak(dtype)  # compiles
        run = TrainingRun(config, model, dataset, pad_id, mesh)
        state = initial_state(run.parts, run.optimizer, config.seed, mesh)
        batches = data.batches_of(run.plan, run.items, pad_id, run.feed.own_rows)
        available = run.plan.steps
        seconds: list[float] = []
        totals = {"tokens": 0.0, "item_tokens": 0.0, "supervised": 0.0, "padded": 0.0}
        flop: list[float] = []
        peaks: list[
            float
        ] = []  # before each step, and after the last: others may use the machine too
        first_step_s = 0.0
        losses = []
        for step in range(steps + 1):
            number = step % available
            batch = batches[number]
            peaks.append(matmul_peak(dtype, 0.5))
            started = time.perf_counter()
            state, figures = run.step(state, run.feed(batch))
            losses.append(float(figures["loss"]))
            took = time.perf_counter() - started
            if step == 0:
                first_step_s = took
                continue
            seconds.append(took)
            chosen = [run.items[i] for row in run.plan.step_rows(number + 1) for i in row]
            seen = batch["ends"] if "ends" in batch else batch["segment_ids"]
            totals["tokens"] += float(np.count_nonzero(seen))
            totals["padded"] += seen.size
            totals["item_tokens"] += sum(map(len, chosen))
            totals["supervised"] += sum(float(np.count_nonzero(i.weights)) for i in chosen)
            flop.append(step_flop(run.specialist, batch))
        peaks.append(matmul_peak(dtype, 0.5))
    whole, devices = sum(seconds), mesh.size
    around = [(a + b) / 2 * devices for a, b in zip(peaks[1:], peaks[2:], strict=False)]
    shares = [f / s / p for f, s, p in zip(flop, seconds, around, strict=True)]
    return {
        "steps": steps,
        "rows_a_step": config.batch_rows,
        "row_tokens": config.row_tokens,
        "step_s": whole / steps,
        "compile_s": first_step_s - whole / steps,
        "tokens_per_s": totals["tokens"] / whole,
        "item_tokens_per_s": totals["item_tokens"] / whole,
        "supervised_tokens_per_s": totals["supervised"] / whole,
        "fill": totals["tokens"] / totals["padded"],
        "fill_of_all_rows": run.plan.fill,
        "prefix_saving": run.plan.saving,
        "flop_per_s": sum(flop) / whole,
        "matmul_peak_flop_per_s": float(np.median(around)),
        "share_of_peak": float(np.median(shares)),
        "dtype": str(dtype),
        "peak_memory_gib": peak_memory_gib(),
        "devices": f"{devices} x {jax.devices()[0].device_kind}",
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "losses": losses,
    }


def _values(model: Decoder, kind: type) -> list[jax.Array]:
    return [v.get_value() for _, v in nnx.iter_graph(model) if isinstance(v, kind)]


def peak_memory_gib() -> float:
    """Greatest use of one device's memory so far; on CPU, of this process."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_torch(
    python: str,
    config: TrainingConfig,
    model: Decoder,
    items: Iterable[Item],
    rows: int,
    threads: int,
) -> dict[str, Any]:
    """The same job by transformers + PEFT in another process: an item a row, padded to the row's length.

    Weights are random, of the model's shape: speed does not depend on them. Returns its figures, or
    {"why": ...} where torch, transformers or peft are not there.
    """
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_json(folder / "config.json", model.config.to_hf())
        chosen = list(items)
        np.savez(
            folder / "items.npz",
            lengths=np.array([len(item) for item in chosen]),
            ids=np.concatenate([item.ids for item in chosen]),
            weights=np.concatenate([item.weights for item in chosen]),
        )
        job = dataclasses.asdict(config.lora) | {
            "learning_rate": config.learning_rate,
            "row_tokens": config.row_tokens,
            "rows": rows,
            "threads": threads,
        }
        write_json(folder / "job.json", job)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [python or sys.executable, str(TORCH_SCRIPT), str(folder)],
            capture_output=True,
            text=True,
            env=environment,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"why": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])
