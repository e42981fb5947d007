"""metrics.jsonl: a line a step, cut back to the checkpoint that a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from automem_jax.distributed import barrier
from automem_jax.files import write_atomically


class Metrics:
    """The file, open for writing. What is later than step `last_step` is cut off: it is written again.

    `last` holds the last line kept. Only the first process writes.
    """

    def __init__(self, path: Path, last_step: int):
        kept: list[str] = []
        if path.exists():
            # A line torn by a kill is always later than the newest checkpoint.
            kept = path.read_text(encoding="utf-8").splitlines()[:last_step]
        self.last: dict[str, float] = json.loads(kept[-1]) if kept else {}
        self._path, self._kept, self._file = path, kept, None

    def __enter__(self) -> Metrics:
        barrier("metrics are read")
        if jax.process_index() == 0:
            write_atomically(self._path, "".join(line + "\n" for line in self._kept))
            self._file = open(self._path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, figures: dict[str, float]) -> None:
        """One line, at once."""
        if self._file is not None:
            self._file.write(json.dumps(figures) + "\n")
            self._file.flush()
