"""Compiles one program for one topology and writes what the compiler says: a process of its own.

`python -m automem_jax.preflight.worker REQUEST.json ANSWER.json`. Run by `compile.py`, with JAX
kept on the CPU, so that it neither takes nor waits for an accelerator.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The figures of one program; see `report.Program`."""
    import jax

    from automem_jax.config import TrainingConfig, from_config_dict
    from automem_jax.models.config import DecoderConfig
    from automem_jax.preflight import engine_programs, hardware, programs
    from automem_jax.preflight.hlo import collectives
    from automem_jax.sharding import make_mesh

    topology = hardware.parse(request["topology"])
    devices = hardware.describe(topology)
    mesh = make_mesh(request["mesh"], devices, allow_split_physical_axes=True)
    training = from_config_dict(request["training"], TrainingConfig)
    model = programs.abstract_model(
        DecoderConfig(**request["model"]),
        training,
        mesh,
        dtype=request["dtype"],
        quantization=request["quantization"],
    )
    started = time.monotonic()
    if request["program"] == "train":
        lowered = programs.lower_training(
            model, training, mesh, labels=request["labels"], nested=training.share_prefix > 0
        )
    else:
        lowered = engine_programs.lower_engine(
            model,
            mesh,
            program=request["program"],
            slots=request["slots"],
            context=request["context"],
        )
    held = sum(lowered.arguments.values())
    result: dict[str, Any] = {"arguments": lowered.arguments, "refused": ""}
    if held > topology.device.usable_bytes:
        return result | {
            "peak_bytes": held,
            "refused": "the arguments alone are larger than the memory; not compiled",
            "compile_s": 0.0,
        }
    try:
        compiled = lowered.program.compile()
    except Exception as error:
        text = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        used = _USED.search(text)
        peak = int(float(used[1]) * _UNITS[used[2].upper()]) if used else held
        seconds = time.monotonic() - started
        return result | {"peak_bytes": peak, "refused": text[:300], "compile_s": seconds}
    memory = compiled.memory_analysis()
    result |= {
        "peak_bytes": memory.peak_memory_in_bytes,
        "compile_s": time.monotonic() - started,
    }
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # some versions cannot print some TPU programs
        return result | {"collectives": None}
    found = collectives(text)
    return result | {
        "collectives": {
            kind: {"count": found.counts[kind], "bytes": found.bytes[kind]}
            for kind in sorted(found.counts)
        },
        "loops_unknown": found.loops_unknown,
    }


def main() -> None:
    """Reads the request, writes the answer; an error of ours is part of the answer."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        found = answer(request)
    except ValueError as error:  # what the user asked for; anything else is a traceback
        found = {"error": " ".join(str(error).split())}
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
