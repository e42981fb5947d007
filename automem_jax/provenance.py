"""What was run in a work directory: every command with its time, versions and source commit."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

COMMANDS_FILE = "commands.jsonl"

_PACKAGES = ("automem_jax", "jax", "flax", "optax", "numpy", "nle", "minihack", "craftax")
# An address in parts: what is kept is all but user, password, query and fragment, as public_url does.
_ADDRESS = re.compile(r"(\w://)(?:[^/?#\s]*@)?([^?#\s]*)(?:[?#]\S*)?")
_GIT_TIMEOUT_S = 10


def record_command(workdir: Path, arguments: Sequence[str]) -> None:
    """Adds a command to the work directory's commands.jsonl, without what an address may hold of secrets.

    Of a run of several processes each adds its own.
    """
    row = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [_ADDRESS.sub(r"\1\2", argument) for argument in arguments],
        **source(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }
    with open(workdir / COMMANDS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def source() -> dict[str, Any]:
    """The commit of the checkout that this package runs from, and whether files differ from it.

    Both None where it is installed elsewhere, or without git.
    """
    root = Path(__file__).resolve().parents[1]
    unknown = {"commit": None, "changed": None}
    if not (root / ".git").exists():
        return unknown
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return unknown
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if status is None else bool(status)}


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def shown_command(argv: Sequence[str] | None = None) -> list[str]:
    """This process's command as one would type it."""
    argv = list(sys.argv if argv is None else argv)
    return ["automem", *argv[1:]]


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
