"""Trains by preference and by weight on one of four fake devices and on all, over two meshes.

Run with XLA_FLAGS=--xla_force_host_platform_device_count=4 and a folder with the examples as argument.
"""

import json
import sys
from pathlib import Path

import jax
from toy import WordTokenizer, tiny_decoder, toy_config

from automem_jax.config import MeshConfig
from automem_jax.training.loop import train

MESHES = {
    "one": None,
    "rows": MeshConfig(data=2, fsdp=2),
    "tensor, sequence": MeshConfig(fsdp=1, tensor=2, sequence=2),
}
OBJECTIVES = {
    "dpo": {"objective": "dpo", "dpo_beta": 0.5, "kl_weight": 0.1},
    "weighted_sft": {"objective": "weighted_sft", "weight_signal": "credit", "kl_weight": 0.1},
}


def run(folder, objective, name, mesh):
    config = toy_config(**OBJECTIVES[objective], batch_rows=4, epochs=1, mesh=mesh or MeshConfig())
    out = folder / f"{objective} {name}"
    train(config, tiny_decoder(), WordTokenizer(), folder / f"{objective}.jsonl", out)
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [[line["loss"], line["grad_norm"], line["kl"]] for line in lines]


def main():
    folder, all_devices = Path(sys.argv[1]), jax.devices
    assert len(all_devices()) == 4
    found = {}
    for objective in OBJECTIVES:
        found[objective] = {}
        for name, mesh in MESHES.items():
            count = 4 if mesh else 1
            jax.devices = lambda *_, count=count: all_devices()[:count]
            found[objective][name] = run(folder, objective, name, mesh)
    print(json.dumps(found))


main()
