"""Which episodes a work directory holds, and how each ended; read from first and last lines only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.traces.store import read_ends

_PARTIAL = ".partial"


@dataclass(frozen=True)
class Episode:
    """One trace. `id` depends on nothing but its place, so links to it stay good.

    Attributes:
      id: twelve hexadecimal digits; all that a request may name.
      path: the file; may have `.partial` at its end while the episode runs.
      run: the folder it lies in, below `traces` where there is one.
      header: the trace's first line. end: its end record as stored; None while it runs.
    """

    id: str
    path: Path
    run: str
    header: Mapping[str, Any]
    end: Mapping[str, Any] | None

    def row(self) -> dict[str, Any]:
        """What the list of episodes shows, JSON-ready."""
        header, end = self.header, self.end or {}
        template = _mapping(header.get("template"))
        policy = _mapping(header.get("policy"))
        adapter = policy.get("adapter_hash")
        return {
            "id": self.id,
            "run": self.run,
            "name": str(header.get("episode", self.path.stem)),
            "env": str(header.get("env", "")),
            "task": str(header.get("task", "")),
            "seed": header.get("seed"),
            "arm": str(header.get("arm") or ""),
            "template": str(template.get("id") or ""),
            "model": str(policy.get("model") or policy.get("kind") or ""),
            "adapter": str(adapter)[:12] if adapter else "",
            "running": self.end is None,
            "progression": end.get("progression"),
            "steps": end.get("steps"),
            "end_reason": end.get("end_reason"),
            "failed": bool(end.get("failed")),
            "error": end.get("error"),
            "tokens": _mapping(end.get("tokens")),
            "stats": _mapping(end.get("memory_stats")),
        }


def find_episodes(root: str | os.PathLike) -> list[Episode]:
    """Every episode under a work directory, finished or running, or the one trace that is named.

    A file that cannot be read, or that is no trace, is left out.

    Raises:
      ValueError: there is no such directory or file.
    """
    root = Path(root)
    if root.is_file():
        found = _episode(root.parent, root)
        return [found] if found else []
    if not root.is_dir():
        raise ValueError(f"work directory {str(root)!r} does not exist; name one with traces")
    found: dict[str, Episode] = {}
    for path in sorted([*root.rglob("*.jsonl"), *root.rglob(f"*.jsonl{_PARTIAL}")]):
        episode = _episode(root, path)
        if episode is not None:
            found.setdefault(episode.id, episode)
    return sorted(found.values(), key=_order)


def episode_id(root: Path, path: Path) -> str:
    """The id of the trace at `path`, the same before and after the episode has ended."""
    place = path.relative_to(root).as_posix().removesuffix(_PARTIAL)
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _episode(root: Path, path: Path) -> Episode | None:
    try:
        header, end = read_ends(path)
    except (OSError, ValueError, RecursionError):
        return None
    folder = path.relative_to(root).parent
    parts = folder.parts[1:] if folder.parts[:1] == ("traces",) else folder.parts
    run = "/".join(parts) or folder.name or root.resolve().name
    return Episode(episode_id(root, path), path, run, header, end)


def _order(episode: Episode) -> tuple:
    seed = episode.header.get("seed")
    return episode.run, str(episode.header.get("task")), seed if isinstance(seed, int) else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
