"""Does an experiment fit an accelerator: the question put to the compiler, and the answer's figures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automem_jax.config import ConfigError, ExperimentConfig, MeshConfig, TrainingConfig
from automem_jax.models.config import (
    DecoderConfig,
    embedded,
    qwen2_5_0_5b,
    qwen2_5_7b,
    qwen2_5_32b,
    smollm2_135m,
)
from automem_jax.preflight.compile import Compiler
from automem_jax.preflight.hardware import Topology, default_mesh, listed
from automem_jax.text.sources import EMBEDDED

PROGRAMS = ("train", "prefill", "decode")
LABELS_SHARE = 8  # a row is taken to have at most one supervised token in eight
KNOWN_SHAPES = {
    **dict.fromkeys(EMBEDDED, embedded),
    "qwen2.5-0.5b": qwen2_5_0_5b,
    "qwen2.5-7b": qwen2_5_7b,
    "qwen2.5-32b": qwen2_5_32b,
    "smollm2-135m": smollm2_135m,
}


@dataclass(frozen=True)
class Program:
    """One compiled program on one device.

    Attributes:
      name: one of PROGRAMS.
      memory: bytes by kind; they add up to the peak.
      peak_bytes: the compiler's own figure.
      usable_bytes: what a program may occupy there.
      refused: the compiler's words where it does not fit; empty where it compiled.
      compile_s: seconds it took.
      collectives: by kind: how often a run, and bytes that they give a device; None: the compiler could
        not print its program.
      loops_unknown: loops with collectives, counted once, whose turns are not known.
      kept: the answer is an earlier one.
      about: what was compiled, in words.
    """

    name: str
    memory: dict[str, int]
    peak_bytes: int
    usable_bytes: int
    refused: str
    compile_s: float
    collectives: dict[str, dict[str, int]] | None
    loops_unknown: int
    kept: bool
    about: str

    @property
    def fits(self) -> bool:
        """Whether it compiled and its peak is no more than what is usable."""
        return not self.refused and self.peak_bytes <= self.usable_bytes

    @property
    def margin_bytes(self) -> int:
        """What is left; negative where it does not fit."""
        return self.usable_bytes - self.peak_bytes


@dataclass(frozen=True)
class Preflight:
    """An experiment on one topology.

    Attributes:
      programs: of PROGRAMS.
      flop_a_token: by formula, see `flop_a_token`.
    """

    topology: Topology
    mesh: dict[str, int]
    parameters: int
    adapter_parameters: int
    quantization: str
    programs: tuple[Program, ...]
    training: TrainingConfig = field(default_factory=TrainingConfig)
    flop_a_token: dict[str, float] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether every program does."""
        return all(program.fits for program in self.programs)

    def to_json(self) -> dict[str, Any]:
        """All figures, with what follows from them."""
        device = self.topology.device
        return {
            "topology": self.topology.name,
            "devices": self.topology.device_count,
            "device_memory_bytes": device.memory_bytes,
            "usable_bytes": device.usable_bytes,
            "mesh": self.mesh,
            "parameters": self.parameters,
            "adapter_parameters": self.adapter_parameters,
            "quantization": self.quantization,
            "fits": self.fits,
            "flop_a_token": self.flop_a_token,
            "programs": {
                p.name: dataclasses.asdict(p) | {"fits": p.fits, "margin_bytes": p.margin_bytes}
                for p in self.programs
            },
        }


def check(
    config: ExperimentConfig,
    topology: Topology,
    compiler: Compiler,
    *,
    mesh: MeshConfig | None = None,
    labels: int = 0,
    names: tuple[str, ...] = PROGRAMS,
    show: Callable[[str, float], None] | None = None,
) -> Preflight:
    """Compiles the programs of `config` for `topology`.

    Args:
      mesh: instead of the config's; where that has none, hardware.default_mesh.
      labels: supervised tokens a row at most; 0: an eighth of the row.
      names: which programs.
      show: called while compiling with the program's name and the seconds that passed.

    Raises:
      MissingCompiler, TopologyError, ConfigError, CompileError.
    """
    compiler.require(topology)
    shape = model_shape(config.model.source)
    training, sizes = fitted_training(config.training, topology, mesh)
    request = {
        "topology": topology.name,
        "mesh": sizes,
        "model": dataclasses.asdict(shape),
        "dtype": config.model.dtype,
        "quantization": config.model.quantization,
        "training": dataclasses.asdict(training),
    }
    slots, context = config.model.slots, config.model.max_context
    programs = []
    for name in names:
        more = {"program": name}
        if name == "train":
            more["labels"] = labels or max(16, training.row_tokens // LABELS_SHARE)
            more["rows"] = training.microbatch_rows or training.batch_rows
            about = (
                f"{training.batch_rows} rows of {training.row_tokens} tokens a step, {more['rows']} "
                f"at a time, rank {training.lora.rank} on {training.lora.targets}, remat "
                f"{training.remat}"
            )
        else:
            more |= {"slots": slots, "context": context}
            about = f"{slots} slots x {context} tokens, one adapter resident"
        found = compiler.run(request | more, show and (lambda s, name=name: show(name, s)))
        programs.append(_program(name, found, topology, about))
    adapters = adapter_parameters(shape, training)
    return Preflight(
        topology=topology,
        mesh=sizes,
        parameters=shape.parameter_count(),
        adapter_parameters=adapters,
        quantization=config.model.quantization,
        programs=tuple(programs),
        training=dataclasses.replace(config.training, mesh=mesh or config.training.mesh),
        flop_a_token=flop_a_token(shape, adapters, training.row_tokens, context),
    )


def smallest(
    config: ExperimentConfig,
    like: Topology | None,
    compiler: Compiler,
    *,
    passed: Callable[[Preflight], None] | None = None,
    **settings: Any,
) -> Preflight | None:
    """The first of the listed slices, cheapest first, that fits; None where none does.

    Args:
      like: only slices of its kind of device; None: of every kind whose compiler is installed.
      passed: told of each slice that was looked at.
      settings: for `check`.
    """
    for topology in listed(like):
        try:
            found = check(config, topology, compiler, **settings)
        except ConfigError:
            continue  # rows or heads cannot be shared evenly there
        if passed is not None:
            passed(found)
        if found.fits:
            return found
    return None


def likely(found: list[Preflight]) -> list[str]:
    """The smallest listed slice of each kind that was looked at which is likely to fit: an estimate.

    Arguments are taken to divide by the devices, activations by the shares of a row.
    """
    lines = []
    for one in {one.topology.kind: one for one in found}.values():
        for topology in listed(one.topology):
            if all(_estimate(one, program, topology) for program in one.programs):
                same = next((o for o in found if o.topology == topology), None)
                how = "compiled" if same is not None else "an estimate; --find compiles"
                if same is None or same.fits:
                    lines.append(
                        f"smallest listed slice of {topology.kind} that fits: {topology.name} ({how})"
                    )
                    break
    return lines


def _estimate(one: Preflight, program: Program, topology: Topology) -> bool:
    """Whether a program that was compiled for `one` would fit `topology`, roughly."""
    try:
        sizes = fitted_training(one.training, topology)[1]
    except ConfigError:
        return False
    divided = one.topology.device_count / topology.device_count
    activations = program.memory["activations and temporaries"]
    held = sum(program.memory.values()) - activations
    if program.name == "train":
        activations *= (
            one.mesh["tensor"] * one.mesh["sequence"] / (sizes["tensor"] * sizes["sequence"])
        )
    else:
        activations *= divided
    return held * divided + activations <= topology.device.usable_bytes


def _program(name: str, found: dict[str, Any], topology: Topology, about: str) -> Program:
    memory = dict(found["arguments"])
    rest = found["peak_bytes"] - sum(memory.values())
    memory["activations and temporaries"] = max(0, rest)
    return Program(
        name=name,
        memory=memory,
        peak_bytes=found["peak_bytes"],
        usable_bytes=topology.device.usable_bytes,
        refused=found["refused"],
        compile_s=found["compile_s"],
        collectives=found.get("collectives"),
        loops_unknown=found.get("loops_unknown", 0),
        kept=found["kept"],
        about=about,
    )


def fitted_training(
    training: TrainingConfig, topology: Topology, mesh: MeshConfig | None = None
) -> tuple[TrainingConfig, dict[str, int]]:
    """The training settings on this topology's mesh, and the mesh's sizes.

    The mesh is the one given, else the config's where it suits the device count, else
    hardware.default_mesh. Rows seen at a time that the mesh cannot share become one row for each share
    of data x fsdp.

    Raises:
      ConfigError: mesh and devices, or rows and mesh, do not fit each other.
    """
    count = topology.device_count
    chosen = mesh
    if chosen is None and training.mesh != MeshConfig() and count % _fixed(training.mesh) == 0:
        chosen = training.mesh
    if chosen is None:
        chosen = default_mesh(topology, training.batch_rows)
    fsdp = chosen.fsdp or max(1, count // _fixed(chosen))
    sizes = {"data": chosen.data * chosen.slices, "fsdp": fsdp}
    sizes |= {"tensor": chosen.tensor, "sequence": chosen.sequence}
    if math.prod(sizes.values()) != count:
        raise ConfigError(
            f"mesh {sizes} needs {math.prod(sizes.values())} devices, {topology.name} has {count}; set "
            "--mesh or training.mesh so that the product is the device count"
        )
    shares = sizes["data"] * fsdp
    rows = training.microbatch_rows or training.batch_rows
    if rows % shares or mesh is not None or chosen != training.mesh:
        rows = shares
    if training.batch_rows % rows:
        raise ConfigError(
            f"training.batch_rows {training.batch_rows}, {rows} at a time, cannot be shared evenly by "
            f"data x fsdp = {shares}; choose a multiple, or more of the tensor axis"
        )
    return dataclasses.replace(training, mesh=chosen, microbatch_rows=rows), sizes


def _fixed(mesh: MeshConfig) -> int:
    """Devices that a mesh asks for, a share of fsdp each."""
    return mesh.data * mesh.tensor * mesh.sequence * mesh.slices * max(1, mesh.fsdp)


def model_shape(source: str) -> DecoderConfig:
    """The decoder's shape: from the checkpoint's config.json, or by the name of a known model.

    Raises:
      ConfigError: neither is there.
    """
    path = Path(source) / "config.json"
    if path.is_file():
        return DecoderConfig.from_hf(json.loads(path.read_text(encoding="utf-8")))
    name = Path(source).name.lower().removesuffix("-instruct")
    if name in KNOWN_SHAPES:
        return KNOWN_SHAPES[name]()
    raise ConfigError(
        f"config.model.source: {source!r} holds no config.json, and is not named like one of "
        f"{', '.join(KNOWN_SHAPES)}; fetch the checkpoint's config.json"
    )


def adapter_parameters(shape: DecoderConfig, training: TrainingConfig) -> int:
    """Weights of one adapter."""
    from automem_jax.models.lora import TARGETS

    inputs_outputs = projections(shape)
    targets = TARGETS[training.lora.targets]
    width = sum(sum(inputs_outputs[name]) for name in targets)
    return shape.num_layers * training.lora.rank * width


def projections(shape: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each projection of a layer."""
    query, key = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return {
        "q_proj": (shape.d_model, query),
        "k_proj": (shape.d_model, key),
        "v_proj": (shape.d_model, key),
        "o_proj": (query, shape.d_model),
        "gate_proj": (shape.d_model, shape.d_ff),
        "up_proj": (shape.d_model, shape.d_ff),
        "down_proj": (shape.d_ff, shape.d_model),
    }


def flop_a_token(
    shape: DecoderConfig, adapters: int, row_tokens: int, context: int
) -> dict[str, float]:
    """FLOP by formula; multiply and add count as two.

    N weights of the projections, A of the adapter, L layers, H heads, C head_dim, D model, V vocabulary,
    T tokens of a row that is one item, S cached tokens:

        train, a token                4 N + 6 A + 6 L H C (T + 1)
        train, a supervised token     4 D V, on top
        recomputation, a token        2 N + 2 A + 2 L H C (T + 1)     remat "full"
        decode, a token               2 N + 2 A + 4 L H C S + 2 D V
    """
    weights = shape.num_layers * sum(i * o for i, o in projections(shape).values())
    attention = shape.num_layers * shape.num_heads * shape.head_dim
    table = shape.d_model * shape.vocab_size
    return {
        "train": 4.0 * weights + 6 * adapters + 6 * attention * (row_tokens + 1),
        "train, supervised": 4.0 * table,
        "recomputation": 2.0 * weights + 2 * adapters + 2 * attention * (row_tokens + 1),
        "decode": 2.0 * weights + 2 * adapters + 4 * attention * context + 2 * table,
    }
