"""Writing files so that a stop at any moment leaves the old content or the new, never half of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes to a temporary name beside `path`, flushes to disk, then renames."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes a rename or a new file name in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(text: str | bytes) -> str:
    """Hex SHA-256 of text (as UTF-8) or bytes."""
    return hashlib.sha256(text.encode("utf-8") if isinstance(text, str) else text).hexdigest()
