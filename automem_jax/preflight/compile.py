"""Runs the worker in a process of its own, and keeps its answers by the hash of what was asked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from automem_jax.files import write_json
from automem_jax.preflight.hardware import MissingCompiler, Topology

PACKAGES = {
    "tpu": ("libtpu", "pip install 'jax[tpu]'  (or only: pip install libtpu)"),
    "cuda": ("jax_cuda12_plugin", "pip install 'jax[cuda12]'"),
}
_SOURCES = ("models", "training", "sampling", "preflight", "sharding.py", "config.py")
_PROBE = """
import importlib.metadata as m, importlib.util as u, json, sys
names = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in m.distributions()}
there = [n for n in ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin") if u.find_spec(n)]
print(json.dumps([{n: found[n] for n in names if n in found}, there]))
"""
Show = Callable[[float], None]


class CompileError(RuntimeError):
    """The compiler failed for another reason than memory; the message holds its last words."""


class Compiler:
    """Compiles programs for named topologies on this machine's CPU.

    Args:
      python: interpreter that has the compiler's package; empty: this one.
      cache: directory of answers.
      fresh: compile even where an answer is kept.
    """

    def __init__(self, python: str = "", cache: Path | None = None, fresh: bool = False):
        self.python = python or sys.executable
        self.cache = cache or cache_directory()
        self.fresh = fresh
        self._versions: dict[str, str] | None = None
        self._there: list[str] = []

    def versions(self) -> dict[str, str]:
        """Versions of JAX and of the compilers in that interpreter.

        Raises:
          MissingCompiler: the interpreter does not run.
        """
        if self._versions is None:
            try:
                done = subprocess.run(
                    [self.python, "-c", _PROBE], capture_output=True, text=True, check=True
                )
            except (OSError, subprocess.CalledProcessError) as error:
                raise MissingCompiler(
                    f"interpreter {self.python!r} does not run: {error}"
                ) from error
            self._versions, self._there = json.loads(done.stdout)
        return self._versions

    def require(self, topology: Topology) -> None:
        """Raises MissingCompiler unless the compiler of this platform is installed."""
        self.versions()
        module, command = PACKAGES[topology.platform]
        there = {name.replace("13", "12") for name in self._there}
        if module not in there:
            raise MissingCompiler(
                f"{topology.name}: the compiler's package {module} is not installed for "
                f"{self.python}; {command}, or name an interpreter that has it with --python"
            )

    def run(self, request: dict[str, Any], show: Show | None = None) -> dict[str, Any]:
        """The worker's answer to `request`; `show` gets the seconds that have passed.

        Raises:
          CompileError: the compiler failed, for another reason than memory.
          ValueError: what was asked does not fit together, e.g. mesh and devices.
        """
        path = self.cache / f"{self._key(request)}.json"
        if path.exists() and not self.fresh:
            return json.loads(path.read_text(encoding="utf-8")) | {"kept": True}
        found = self._compile(request, show)
        if "error" in found:
            raise ValueError(found["error"])
        self.cache.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        return found | {"kept": False}

    def _compile(self, request: dict[str, Any], show: Show | None) -> dict[str, Any]:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="automem-preflight-") as folder:
            asked, answered, log = (Path(folder) / name for name in ("ask", "answer", "log"))
            asked.write_text(json.dumps(request), encoding="utf-8")
            command = [self.python, "-m", "automem_jax.preflight.worker", str(asked), str(answered)]
            with open(log, "w") as output:
                process = subprocess.Popen(
                    command, env=environment(), stdout=output, stderr=subprocess.STDOUT
                )
                try:
                    while process.poll() is None:
                        if show is not None:
                            show(time.monotonic() - started)
                        time.sleep(0.2)
                finally:
                    process.kill()
                    process.wait()
            if process.returncode or not answered.exists():
                words = [
                    line for line in log.read_text(errors="replace").splitlines() if line.strip()
                ]
                raise CompileError(
                    f"compiling {request['program']} for {request['topology']} failed (exit status "
                    f"{process.returncode}): {' | '.join(words[-4:])[-1500:]}"
                )
            return json.loads(answered.read_text(encoding="utf-8"))

    def _key(self, request: dict[str, Any]) -> str:
        parts = [request, self.versions(), code_hash()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def environment() -> dict[str, str]:
    """Of the worker: JAX on the CPU, libtpu as a mere compiler beside whoever holds the chips."""
    package = str(Path(__file__).resolve().parents[2])
    drop = (
        "TPU_",
        "JAX_COORDINATOR",
        "JAX_NUM_PROC",
        "JAX_PROCESS_ID",
        "CUDA_VISIBLE",
        "XLA_FLAGS",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def code_hash() -> str:
    """Of the sources that a compiled program depends on."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for name in _SOURCES:
        place = root / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_directory() -> Path:
    """Where answers are kept: AUTOMEM_CACHE, else automem_jax in the user's cache directory."""
    from automem_jax.text.sources import cache_directory as root

    return root() / "preflight"
