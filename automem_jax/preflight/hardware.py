"""Accelerators that can be named, what one device holds and does, and the compiler's view of them.

A topology is written v5e:2x4 (TPU, chips of a slice) or cuda:h100x8 (NVIDIA, number of GPUs). Facts are
the makers' public data sheets; prices are about the list price of a device and hour on demand, good
only for putting slices in an order.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from automem_jax.config import MeshConfig, unknown_key

GIB = 2**30
GPUS_A_HOST = 8
GPU_SHARE = (
    0.92  # XLA_PYTHON_CLIENT_MEM_FRACTION of launch/: the rest is CUDA's, NCCL's and cuDNN's
)


class TopologyError(ValueError):
    """No such accelerator or slice; the message names what is known."""


class MissingCompiler(RuntimeError):
    """The compiler of this platform is not installed; the message names the pip command."""


@dataclass(frozen=True)
class Device:
    """One kind of accelerator.

    Attributes:
      memory_bytes: of one device as the runtime reports it; TPU: what programs may use.
      bf16_flop_per_s: dense peak of the data sheet.
      price: about, dollars a device and hour.
      slices: names of the slices that are looked through, smallest first.
      target: for GPUs, the compiler's description of the chip (GpuTargetConfigProto).
    """

    memory_bytes: int
    bf16_flop_per_s: float
    price: float
    slices: tuple[str, ...]
    target: str = ""

    @property
    def usable_bytes(self) -> int:
        """What a program may occupy."""
        return int(self.memory_bytes * GPU_SHARE) if self.target else self.memory_bytes


def _gpu_target(
    name: str,
    capability: tuple[int, int],
    *,
    cores: int,
    shared_memory: int,
    bandwidth: float,
    l2_mib: int,
    clock_ghz: float,
    memory_bytes: int,
    fpus: int = 128,
) -> str:
    major, minor = capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory - 1024}
  core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {int(bandwidth)} l2_cache_size: {l2_mib * 2**20} clock_rate_ghz: {clock_ghz}
  device_memory_size: {memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""


def _gpu(name, memory_mib, bf16, price, capability, **chip) -> Device:
    memory = memory_mib * 2**20
    target = _gpu_target(name, capability, memory_bytes=memory, **chip)
    return Device(memory, bf16, price, ("1", "2", "4", "8", "16", "32", "64"), target)


_SQUARE = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")
_HOPPER = {"cores": 132, "shared_memory": 233_472, "l2_mib": 50, "clock_ghz": 1.98}

TPUS = {
    "v4": Device(int(30.75 * GIB), 275e12, 3.22, _CUBE),
    "v5e": Device(int(15.75 * GIB), 197e12, 1.20, _SQUARE),
    "v5p": Device(int(95 * GIB), 459e12, 4.20, _CUBE),
    "v6e": Device(int(31.25 * GIB), 918e12, 2.70, _SQUARE),
    "tpu7x": Device(int(94.75 * GIB), 1153e12, 6.00, _CUBE),
}
GPUS = {
    "a100": _gpu(
        *("NVIDIA A100-SXM4-80GB", 81_050, 312e12, 2.50, (8, 0)),
        **{"cores": 108, "shared_memory": 167_936, "bandwidth": 2.039e12, "l2_mib": 40},
        **{"clock_ghz": 1.41, "fpus": 64},
    ),
    "h100": _gpu(
        "NVIDIA H100 80GB HBM3", 81_008, 989e12, 4.00, (9, 0), bandwidth=3.352e12, **_HOPPER
    ),
    "h200": _gpu("NVIDIA H200", 143_167, 989e12, 5.00, (9, 0), bandwidth=4.8e12, **_HOPPER),
    "b200": _gpu(
        *("NVIDIA B200", 182_642, 2250e12, 8.00, (10, 0)),
        **{"cores": 148, "shared_memory": 233_472, "bandwidth": 8e12, "l2_mib": 126},
        **{"clock_ghz": 1.965},
    ),
}


@dataclass(frozen=True)
class Topology:
    """A named set of devices.

    Attributes:
      name: as the user wrote it, e.g. "v6e:2x4" or "cuda:h100x8".
      platform: "tpu" or "cuda".
      kind: a key of TPUS or GPUS.
      shape: chips along each physical axis; of GPUs (hosts, GPUs a host).
    """

    name: str
    platform: str
    kind: str
    shape: tuple[int, ...]

    @property
    def device(self) -> Device:
        """Facts of one of its devices."""
        return (TPUS if self.platform == "tpu" else GPUS)[self.kind]

    @property
    def device_count(self) -> int:
        """JAX devices; a tpu7x chip has two."""
        return math.prod(self.shape) * (2 if self.kind == "tpu7x" else 1)

    @property
    def price(self) -> float:
        """About, dollars an hour."""
        return self.device_count * self.device.price


def parse(name: str) -> Topology:
    """The topology of a name.

    Raises:
      TopologyError: it is none.
    """
    family, colon, size = name.strip().lower().partition(":")
    if colon and family in ("cuda", "gpu", "rocm") | TPUS.keys():
        if family in TPUS:
            return _tpu(name, family, size)
        if family != "rocm":
            return _cuda(name, size)
    raise TopologyError(
        f"topology {name!r} is not known; write e.g. v6e:2x4 or cuda:h100x8. TPUs: "
        f"{', '.join(TPUS)}; GPUs: {', '.join(GPUS)}"
    )


def _tpu(name: str, kind: str, size: str) -> Topology:
    slices = TPUS[kind].slices
    axes = 2 if "x" in slices[0] and slices[0].count("x") == 1 else 3
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size) or size.count("x") != axes - 1:
        raise TopologyError(
            f"topology {name!r}: {kind} slices are written {kind}:{slices[0]}, by chips along "
            f"{axes} axes; e.g. {', '.join(slices)}"
        )
    shape = tuple(map(int, size.split("x")))
    return Topology(f"{kind}:{size}", "tpu", kind, shape)


def _cuda(name: str, size: str) -> Topology:
    match = re.fullmatch(r"([a-z]+\d+)(?:x([1-9]\d*))?", size)
    if match is None or match[1] not in GPUS:
        kind = match[1] if match else size
        raise TopologyError(
            f"topology {name!r}: {unknown_key(kind, GPUS).replace('key', 'GPU')}; GPUs are written "
            f"cuda:h100x8; known: {', '.join(GPUS)}"
        )
    count = int(match[2] or 1)
    if count > GPUS_A_HOST and count % GPUS_A_HOST:
        raise TopologyError(
            f"topology {name!r}: {count} GPUs do not fill hosts of {GPUS_A_HOST}; use a multiple"
        )
    hosts = -(-count // GPUS_A_HOST)
    return Topology(f"cuda:{match[1]}x{count}", "cuda", match[1], (hosts, count // hosts))


def listed(like: Topology | None = None) -> list[Topology]:
    """Slices of the list, cheapest an hour first; with `like`, those of its kind of device only."""
    names = []
    for kind, device in TPUS.items():
        names += [f"{kind}:{size}" for size in device.slices]
    for kind, device in GPUS.items():
        names += [f"cuda:{kind}x{size}" for size in device.slices]
    found = [parse(name) for name in names]
    if like is not None:
        found = [topology for topology in found if topology.kind == like.kind]
    return sorted(found, key=lambda topology: (topology.price, topology.device_count))


def describe(topology: Topology) -> list[Any]:
    """The devices of a topology, for the compiler; imports JAX.

    Raises:
      MissingCompiler: libtpu or JAX's CUDA plugin is not installed.
      TopologyError: the compiler knows no such slice.
    """
    from jax.experimental import topologies

    try:
        if topology.platform == "tpu":
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name)
        else:
            hosts, gpus = topology.shape
            found = topologies.get_topology_desc(
                "cuda",
                "cuda",
                target_config=topology.device.target,
                topology=f"1x{hosts}x{gpus}",
            )
    except Exception as error:
        raise TopologyError(
            f"topology {topology.name!r} is refused by the compiler: {' '.join(str(error).split())}"
        ) from error
    return list(found.devices)


def default_mesh(topology: Topology, training_rows: int = 0) -> MeshConfig:
    """A mesh that suits large decoders on this topology.

    The tensor axis takes up to 8 devices, which share weights and each row's activations and lie on one
    host or close together; the rest is fsdp. Chips with much memory (v5p, tpu7x) get fsdp alone: a row a
    device, and fewer collectives.
    """
    count = topology.device_count
    roomy = topology.platform == "tpu" and topology.device.memory_bytes > 64 * GIB
    tensor = 1 if roomy else math.gcd(count, 8)
    fsdp = count // tensor
    while training_rows and training_rows % fsdp and fsdp % 2 == 0 and tensor < 8:
        fsdp, tensor = fsdp // 2, tensor * 2
    return MeshConfig(fsdp=fsdp, tensor=tensor)
