"""WORKDIR/status/COMMAND-HOST-PID.json: what a command is doing, for whoever looks from outside.

The process renews the file every few seconds from a thread of its own, so that a long compilation or one
slow answer of a server does not look like death. Whoever reads it tells a running process from a killed one
by the process's number and start on the same machine, by the age of the heartbeat from another.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from automem_jax.files import write_json

FOLDER = "status"
SCHEMA = 1
WRITE_EVERY_S = 1.0  # where something changed
HEARTBEAT_S = 5.0  # where nothing did
SILENT_AFTER_S = 60.0  # heartbeats of another machine come over a shared file system, late
_TASKS_KEPT, _LINES_KEPT = 60, 8

# How a run stands; the last two are found out by the reader.
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
KILLED, SILENT = "killed", "silent"


class Record:
    """A run's record; `open` it, change it under `lock`, `close` it.

    Attributes:
      data: JSON-ready, see `begin`. lock: held while it is changed or written.
    """

    def __init__(self, workdir: Path, command: str, refresh: Callable[[], None] | None = None):
        """`refresh` is called before each write, to bring `data` up to date."""
        host = platform.node() or "host"
        self.path = workdir / FOLDER / f"{command}-{host}-{os.getpid()}.json"
        self.lock = threading.RLock()
        self.data: dict[str, Any] = begin(command, host)
        self._refresh = refresh or (lambda: None)
        self._changed, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Writes the first record, in place of ended ones of this command, and starts the heartbeat.

        Raises:
          OSError: the work directory cannot be written.
        """
        command = self.data["command"]
        for path in self.path.parent.glob(f"{command}-*.json"):
            if path != self.path and state_of(read(path)) not in (RUNNING, SILENT):
                path.unlink(missing_ok=True)
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Something is new; it is on disk soon."""
        self._changed.set()

    def close(self, state: str, error: str = "") -> None:
        """The last record. What cannot be written any more is left as it is."""
        if self._thread is None:
            return
        self._over.set()
        self._changed.set()
        self._thread.join()
        with self.lock:
            self.data |= {"state": state, "error": error, "ended": time.time()}
        with contextlib.suppress(OSError):
            self._write()

    def _beat(self) -> None:
        while not self._over.is_set():
            if self._changed.wait(HEARTBEAT_S):
                self._changed.clear()
            if self._over.is_set():
                return
            with contextlib.suppress(
                OSError
            ):  # a full disk is the run's business, not its record's
                self._write()
            self._over.wait(WRITE_EVERY_S)

    def _write(self) -> None:
        with self.lock:
            self._refresh()
            self.data["heartbeat"] = time.time()
            del self.data["tasks"][:-_TASKS_KEPT], self.data["lines"][:-_LINES_KEPT]
            write_json(self.path, self.data, durable=False)


def begin(command: str, host: str) -> dict[str, Any]:
    """A record's first content.

    command, pid, host; machine and process tell the process from a later one of the same number; began,
    heartbeat, ended: seconds since 1970; state and error; stages: name, began, ended; tasks: see
    live.board; lines: what was said last; usage: of servers, by model, since the last stage ended; figures:
    of a command without tasks.
    """
    now = time.time()
    return {
        "schema": SCHEMA,
        "command": command,
        "pid": os.getpid(),
        "host": host,
        "machine": _machine(),
        "process": _started(os.getpid()),
        "began": now,
        "heartbeat": now,
        "ended": None,
        "state": RUNNING,
        "error": "",
        "stages": [],
        "tasks": [],
        "lines": [],
        "usage": {},
        "figures": {},
    }


def read(path: Path) -> dict[str, Any]:
    """A record; empty where it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def read_all(workdir: Path) -> list[dict[str, Any]]:
    """Every record of a work directory, the latest one first, each with its true `state`."""
    found = []
    for path in (workdir / FOLDER).glob("*.json"):
        data = read(path)
        if data.get("schema") == SCHEMA:
            found.append(data | {"state": state_of(data)})
    return sorted(found, key=lambda data: -float(data.get("began") or 0))


def state_of(data: dict[str, Any], now: float | None = None) -> str:
    """How a run stands: what its record says, or KILLED where it says running and the process is gone.

    SILENT: the process is there, or on another machine, and has not been heard of for SILENT_AFTER_S.
    """
    state = data.get("state")
    if state != RUNNING:
        return state if isinstance(state, str) else KILLED
    try:
        age = (time.time() if now is None else now) - float(data["heartbeat"])
        here = data["machine"] == _machine()
        gone = here and _started(int(data["pid"])) != data["process"]
    except (KeyError, TypeError, ValueError):
        return KILLED
    if gone:
        return KILLED
    return RUNNING if age <= SILENT_AFTER_S else SILENT


def _machine() -> str:
    """Names this machine, this boot of it, and the container: where a process number means something."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str:
    """Tells a process from an earlier one of the same number; "" where there is none (or a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        try:  # no /proc on this system
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return str(pid)
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if fields[0] in "ZX" else fields[19]
