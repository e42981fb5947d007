"""What the system does to the files by itself: pruning, auto files, items that tick themselves."""

from __future__ import annotations

from collections.abc import Mapping

from automem_jax.agent.conditions import as_text, holds
from automem_jax.agent.memory import MemoryStore
from automem_jax.agent.observers import Scope
from automem_jax.agent.template import FileSpec


class Upkeep:
    """Keeps one episode's files in order, and lets observers see them.

    Args:
      files: the template's.   store: holds them.   scope: their sources and conditions.

    Attributes:
      written: names of files written to since `show_files` was called.
    """

    def __init__(self, files: Mapping[str, FileSpec], store: MemoryStore, scope: Scope) -> None:
        self._store, self._scope = store, scope
        self._auto = {name: spec.source for name, spec in files.items() if spec.kind == "auto"}
        self._ticking = [
            (name, item.id, item.done_when)
            for name, spec in files.items()
            for item in spec.items
            if item.done_when is not None
        ]
        # What a file is known to hold at a version: nothing is done anew until it changes.
        self._filled: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._ticked: dict[str, tuple[tuple[int, ...], set[str]]] = {}
        self.written: set[str] = set()

    def maintain(self) -> None:
        """Prunes, fills auto files, ticks items."""
        store, resolve = self._store, self._scope.resolve
        store.prune()
        for name, source in self._auto.items():
            text = as_text(resolve(source))
            if self._filled.get(name) != (text, store.version(name)):
                store.set_lines(name, text)
                self._filled[name] = text, store.version(name)
        for name, item, done_when in self._ticking:
            version, ticked = self._ticked.get(name, ((), set()))
            now = store.version(name)
            if version != now:
                ticked = set()
            if item not in ticked and holds(done_when, resolve):
                store.tick(name, item)
                ticked.add(item)  # ticking one item leaves the others as they are
                now = store.version(name)
            self._ticked[name] = now, ticked

    def show_files(self) -> None:
        """Lets observers of files see them."""
        self._scope.update_files(self._store.index(), tuple(sorted(self.written)))
        self.written.clear()
