"""Writing files so that a stop at any moment leaves the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def atomic_file(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file open for writing that takes its name only when it is whole and on disk.

    Where the block raises, `path` stays as it was and nothing is left behind.

    Args:
      durable: wait for the disk. Without it readers still never see half of it, but a machine that
        loses power may lose it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_directory(path.parent)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes text (as UTF-8) or bytes through `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: str | Path, value: Any, *, durable: bool = True) -> None:
    """Writes indented JSON through `atomic_file`; NaN and infinity raise ValueError."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_file(path, durable=durable) as file:
        file.write(text.encode() + b"\n")


def sync_directory(directory: Path) -> None:
    """Makes a rename or a new file name in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
