"""Trains the toy run under many meshes on 8 fake devices; prints each run's losses as JSON.

Run with XLA_FLAGS=--xla_force_host_platform_device_count=8 and a folder as argument.
"""

import json
import sys
import time
from pathlib import Path

import jax
from toy import MESH_RUN as ROWS
from toy import WordTokenizer, tiny_decoder, toy_config

from automem_jax.config import MeshConfig
from automem_jax.sharding import ShardingError
from automem_jax.training.checkpoint import Checkpoints
from automem_jax.training.loop import train

MESHES = {
    "data": MeshConfig(data=8, fsdp=1),
    "fsdp": MeshConfig(fsdp=8),
    "tensor, sequence": MeshConfig(fsdp=1, tensor=2, sequence=4),
    "fsdp, sequence": MeshConfig(fsdp=4, sequence=2),
}
WRONG = {
    "product": MeshConfig(data=3, fsdp=1),
    "rest": MeshConfig(tensor=3),
    "rows": MeshConfig(data=8, fsdp=1),
    "tokens": MeshConfig(fsdp=1, sequence=8),
}


def run(folder, name, **changes):
    config = toy_config(**(ROWS | changes))
    started = time.monotonic()
    out = folder / name
    result = train(config, tiny_decoder(), WordTokenizer(), folder / "e.jsonl", out)
    print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {"losses": [[r["loss"], r["grad_norm"]] for r in rows], "saving": result.prefix_saving}


def stop_after(step_to_stop):
    def report(step, total, figures):
        if step == step_to_stop:
            raise KeyboardInterrupt

    return report


def restored_on_another_mesh(folder):
    """Steps saved by a run begun on two devices, and that run as finished on eight."""
    arguments = tiny_decoder(), WordTokenizer(), folder / "e.jsonl", folder / "moved"
    all_devices = jax.devices
    jax.devices = lambda *_: all_devices()[:2]
    try:
        train(toy_config(**ROWS, checkpoint_every=1), *arguments, stop_after(1))
    except KeyboardInterrupt:
        pass
    finally:
        jax.devices = all_devices
    saved = Checkpoints(folder / "moved" / "checkpoints", keep=2, identity={})
    steps = saved.steps()
    saved.close()
    return steps, run(folder, "moved", mesh=MeshConfig(data=2, fsdp=2, tensor=2))


def main():
    folder = Path(sys.argv[1])
    assert len(jax.devices()) == 8
    found = {"meshes": {}, "errors": {}}
    for name, mesh in MESHES.items():
        found["meshes"][name] = run(folder, name, mesh=mesh)
    accumulated = {"mesh": MeshConfig(data=2, fsdp=2, tensor=2), "microbatch_rows": 4}
    found["meshes"]["accumulated"] = run(folder, "accumulated", **accumulated)
    for name, mesh in WRONG.items():
        rows = 3 if name == "rows" else 8
        try:
            run(folder, name, mesh=mesh, batch_rows=rows, row_tokens=20 if name == "tokens" else 24)
        except ShardingError as error:
            found["errors"][name] = str(error)
    found["restored"], found["moved"] = restored_on_another_mesh(folder)
    print(json.dumps(found))


main()
