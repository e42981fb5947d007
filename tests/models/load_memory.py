"""Run by test_load.py in a process of its own: prints what a load took beyond the arrays it made."""

import json
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

from automem_jax.models import load_hf
from automem_jax.models.config import DecoderConfig
from automem_jax.models.layout import layout
from automem_jax.models.load import abstract_model
from automem_jax.models.safetensors_stream import TensorInfo, stream_safetensors
from automem_jax.sharding import make_mesh

CONFIG = DecoderConfig(
    vocab_size=20_000,
    d_model=1024,
    num_layers=5,
    num_heads=16,
    num_kv_heads=8,
    head_dim=64,
    d_ff=2560,
    tie_embeddings=True,
)


def write_checkpoint(directory: Path, config: DecoderConfig) -> int:
    """Random float32 shards, one for the embedding and one for the rest; returns the largest tensor's
    bytes."""
    infos = []
    for row in layout(abstract_model(config, "float32")):
        shape = row.variable.get_value().shape[int(row.stacked) :]
        shape = shape[::-1] if row.transposed else shape
        infos += [TensorInfo(name, shape, "float32") for _, name in row.names(config.num_layers)]
    directory.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(2**20, np.float32)
    where = {}
    for number, part in enumerate((infos[:1], infos[1:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        where |= {info.name: file for info in part}
        with stream_safetensors(directory / file, part, {}) as writer:
            for info in part:
                left = info.nbytes // 4
                while left:
                    writer.write(info.name, noise[:left])
                    left -= min(left, noise.size)
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return max(info.nbytes for info in infos)


def resident_bytes() -> int:
    """Memory of this process, pages of mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def main(directory: str, dtype: str, sharded: bool) -> None:
    path = Path(directory)
    largest = write_checkpoint(path, CONFIG)
    mesh = make_mesh({"fsdp": 2, "tensor": 2}) if sharded else None
    before, peak, stop = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, resident_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_hf(path, mesh, dtype)
    stop.set()
    watcher.join()
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(model.layers)) + model.embed[...].nbytes
    print(json.dumps({"largest": largest, "arrays": arrays, "extra": peak - before - arrays}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "sharded")
