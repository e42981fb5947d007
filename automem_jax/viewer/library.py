"""A work directory's episodes by id, opened when they are asked for."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automem_jax.viewer.frames import FramePlayer, NoFrame, env_settings
from automem_jax.viewer.index import TraceIndex
from automem_jax.viewer.runs import Episode, find_episodes

_OPEN_TRACES = 6
_PLAYERS = 2


class Library:
    """Safe to use from several threads; `close` it when done."""

    def __init__(self, root: str | os.PathLike) -> None:
        """Raises ValueError where there is no such work directory."""
        self._root = Path(root)
        self._episodes: dict[str, Episode] = {}
        self._indexes: OrderedDict[str, TraceIndex] = OrderedDict()
        self._players: OrderedDict[str, FramePlayer] = OrderedDict()
        self._lock = threading.Lock()
        self.refresh()

    @property
    def name(self) -> str:
        """What the page calls the work directory."""
        return self._root.resolve().name

    def refresh(self) -> list[Episode]:
        """Looks for episodes again; all there are."""
        found = find_episodes(self._root)
        with self._lock:
            self._episodes = {episode.id: episode for episode in found}
        return found

    def episode(self, name: str) -> Episode:
        """The episode of this id.

        Raises:
          KeyError: there is none.
        """
        with self._lock:
            return self._episodes[name]

    def index(self, name: str) -> TraceIndex:
        """The opened trace of this id; a few stay open.

        Raises:
          KeyError: there is no such episode.
          TraceError, OSError: its file cannot be read.
        """
        with self._lock:
            path = self._path(self._episodes[name])
            index = self._indexes.pop(name, None)
            if index is not None and path.stat().st_ino != index.inode:
                index = None  # played again; the old one ends with its last reader
            index = index or TraceIndex(path)
            self._indexes[name] = index
            while len(self._indexes) > _OPEN_TRACES:
                self._indexes.popitem(last=False)
        index.go_on()
        return index

    def frame(self, name: str, step: int) -> tuple[bytes, dict[str, int]]:
        """The game's picture at a step as PNG, and achievements: name -> step that unlocked it.

        Raises:
          KeyError: there is no such episode.
          NoFrame: there is no picture; says why.
        """
        with self._lock:
            episode = self._episodes[name]
            player = self._players.pop(name, None)
            if player is None:
                settings = env_settings(episode.header, self._config())
                player = FramePlayer(self._path(episode), settings)
            self._players[name] = player
            old = []
            while len(self._players) > _PLAYERS:
                old.append(self._players.popitem(last=False)[1])
        for other in old:
            other.close()
        return player.frame(step)

    def close(self) -> None:
        """Closes what is open and ends the game processes."""
        with self._lock:
            players, self._players = list(self._players.values()), OrderedDict()
            indexes, self._indexes = list(self._indexes.values()), OrderedDict()
        for player in players:
            player.close()
        for index in indexes:
            index.close()

    def _path(self, episode: Episode) -> Path:
        """Where the trace lies now: an episode that ended since loses its `.partial`."""
        whole = episode.path.with_name(episode.path.name.removesuffix(".partial"))
        return whole if whole.exists() else episode.path

    def _config(self) -> Mapping[str, Any] | None:
        try:
            config = json.loads((self._root / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return config if isinstance(config, Mapping) else None


__all__ = ["Library", "NoFrame"]
