"""Starts JAX's own runtime over several processes, and lays host data out over their devices.

A run of several processes is told so by flags, by the environment (JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES, JAX_PROCESS_ID), or by a cluster that JAX detects itself (SLURM, TPU pods,
JobSets). All processes run the same command and share the work directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

HEARTBEAT_TIMEOUT_S = 60
SHUTDOWN_TIMEOUT_S = 30  # a process that ends with an error waits so long for the others


class DistributedError(ValueError):
    """How the processes are to find each other is not clear; the message says what is missing."""


def settings(
    coordinator: str = "",
    processes: str = "",
    process_id: str = "",
    environment: Mapping[str, str] | None = None,
) -> tuple[str, int, int] | None:
    """(coordinator address, number of processes, this one's number), or None where nothing says so.

    Arguments win over the environment.

    Raises:
      DistributedError: some of the three are missing, or are no numbers that fit each other.
    """
    environment = os.environ if environment is None else environment
    given = {
        "--coordinator (JAX_COORDINATOR_ADDRESS)": coordinator
        or environment.get("JAX_COORDINATOR_ADDRESS", ""),
        "--processes (JAX_NUM_PROCESSES)": processes or environment.get("JAX_NUM_PROCESSES", ""),
        "--process_id (JAX_PROCESS_ID)": process_id or environment.get("JAX_PROCESS_ID", ""),
    }
    address, count, number = given.values()
    if not count and not number:
        return None  # a coordinator alone: JAX finds the rest in the cluster's environment
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise DistributedError(f"several processes: {', '.join(missing)} missing; give all three")
    if not count.isdigit() or not number.isdigit() or not int(number) < int(count):
        raise DistributedError(
            f"several processes: number {number!r} of {count!r}; numbers run from 0 to one less than "
            "the number of processes"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise DistributedError(f"coordinator {address!r} is not HOST:PORT, e.g. 10.0.0.1:8476")
    return address, int(count), int(number)


def start(coordinator: str = "", processes: str = "", process_id: str = "") -> bool:
    """Joins the processes of this run, if it has several; call it before anything uses a device.

    Returns whether there are several. On CPU they talk through gloo. A process whose peers are gone
    ends with an error, at the latest after HEARTBEAT_TIMEOUT_S.

    Raises:
      DistributedError: see `settings`; or the processes did not find each other.
    """
    found = settings(coordinator, processes, process_id)
    if found is None and not _cluster_of_several():
        return False
    if found is not None and found[1] == 1:
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT_S,
        "shutdown_timeout_seconds": SHUTDOWN_TIMEOUT_S,
    }
    if found is not None:
        names = ("coordinator_address", "num_processes", "process_id")
        options |= dict(zip(names, found, strict=True))
        options["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"the processes did not find each other: {' '.join(str(error).split())}; check the "
            "coordinator's address, and that all of them run"
        ) from error
    return jax.process_count() > 1


def _cluster_of_several() -> bool:
    """Whether the environment is that of one of several tasks that JAX can tell apart."""
    environment = os.environ
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return True
    if int(environment.get("SLURM_NTASKS", "1") or 1) > 1 and "SLURM_PROCID" in environment:
        return True
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1") or 1) > 1:
        return True
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def is_first() -> bool:
    """Whether this process is the only one, or number 0 of several; does not touch a device."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def put(value: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds whole, or that is laid out already, laid out as `sharding`."""
    if jax.process_count() == 1 or not getattr(value, "is_fully_addressable", True):
        return jax.device_put(value, sharding)
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(value: jax.Array) -> np.ndarray:
    """The whole array on every host; all processes must ask for it."""
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def barrier(name: str) -> None:
    """Returns when all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
