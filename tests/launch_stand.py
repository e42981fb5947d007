"""A stand for the launch scripts: their environment, and stand-ins for SLURM, gcloud and curl."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[1] / "launch"

# One node or several on this machine: each task is told what SLURM tells it.
SRUN = """#!/usr/bin/env bash
echo "$*" >>"$STAND/srun"
while [[ "$1" == --* ]]; do [[ "$1" == --output=* ]] && out="${1#--output=}"; shift; done
out="${out//%x/automem}" out="${out//%j/$SLURM_JOB_ID}" out="${out//%N/localhost}"
trap 'echo killed >>"$STAND/killed"; kill -KILL "${pids[@]}"' TERM  # as the real one does
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_STEP_NODELIST=localhost SLURM_PROCID=$i SLURM_LOCALID=$i "$@" >>"${out//%t/$i}" 2>&1 &
  pids+=($!)
done
echo "${pids[*]}" >"$STAND/tasks"
status=0
for pid in "${pids[@]}"; do
  one=0
  wait "$pid" || one=$?
  ((one > status)) && status=$one
done
exit "$status"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo localhost; else echo "$*" >>"$STAND/requeued"; fi
"""
SCANCEL = """#!/usr/bin/env bash
echo "$*" >>"$STAND/cancelled"
kill -TERM $(cat "$STAND/tasks")
"""
# Workers are folders; a command runs in all of them at once, each with its own metadata.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >>"$STAND/gcloud"
if [ -e "$STAND/unreachable" ]; then rm "$STAND/unreachable"; exit 255; fi
case "$4" in
  describe) cat "$STAND/state" ;;
  scp) for home in "$STAND"/worker-*; do cp "$5" "$home/${6#*:}"; done ;;
  ssh)
    for last; do :; done
    for home in "$STAND"/worker-*; do
      (cd "$home" && HOME="$home" WORKER="${home##*-}" exec bash -c "${last#--command=}") &
      pids+=($!)
    done
    status=0
    for pid in "${pids[@]}"; do wait "$pid" || status=1; done
    exit "$status"
    ;;
esac
"""
CURL = """#!/usr/bin/env bash
case "${@: -1}" in
  */agent-worker-number) echo "$WORKER" ;;
  */worker-network-endpoints) echo "$ENDPOINTS" ;;
  *) exit 22 ;;
esac
"""
FAKES = {"srun": SRUN, "scontrol": SCONTROL, "scancel": SCANCEL, "gcloud": GCLOUD, "curl": CURL}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Stand:
    """A folder with the stand-ins on PATH; `start` and `run` call a launch script in it."""

    def __init__(self, folder: Path, automem: str | None = None):
        self.folder = folder
        self.automem = automem or f"{sys.executable} {folder / 'task.py'}"
        (folder / "bin").mkdir()
        for name, text in FAKES.items():
            path = folder / "bin" / name
            path.write_text(text)
            path.chmod(0o755)

    def task(self, text: str) -> None:
        """What stands for `automem`; its arguments are the stage and its flags."""
        (self.folder / "task.py").write_text(text)

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_COORD"))}
        return (
            kept
            | {
                "AUTOMEM": self.automem,
                "STAND": str(self.folder),
                "PORT": str(free_port()),
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(LAUNCH.parent),
                "JAX_PLATFORMS": "cpu",
                "RESTART_DELAY_S": "0",
                "SLURM_SUBMIT_DIR": str(LAUNCH.parent),
            }
            | more
        )

    def start(self, script: str, *arguments: str, **more: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(LAUNCH / script), *arguments],
            env=self.environment(**more),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess:
        return finish(self.start(script, *arguments, **more))


def finish(process: subprocess.Popen, timeout_s: float = 400) -> subprocess.CompletedProcess:
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def wait_until(true, what: str, timeout_s: float = 300) -> None:
    """Returns when `true()` is; what else happens is up to the processes that were started."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s:g} s"
        time.sleep(0.02)
