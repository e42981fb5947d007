"""Which running request lies in which row of what a CPU decodes from.

Laying a request's tokens out costs as much as some steps of decoding, so a request keeps its row from one
burst to the next, and only new ones are laid out.
"""

from __future__ import annotations

from automem_jax.models.config import DecoderConfig
from automem_jax.models.paged_cache import Rows, empty_rows
from automem_jax.sampling.scheduler import Running

_PATIENCE = 16  # bursts that could have done with narrower rows before rows become narrower


class Desk:
    """Rows of one decode program.

    Attributes:
      laid: a Rows a layer; None before the first `place`.
    """

    def __init__(self, config: DecoderConfig, rows: int, block_tokens: int, dtype, int8: bool):
        self._config, self._dtype, self._block_tokens = config, dtype, block_tokens
        self._int8 = int8
        self._owners: list[Running | None] = [None] * rows
        self._width, self._too_wide = 0, 0
        self.laid: tuple[Rows, ...] | None = None

    def place(
        self, group: list[Running], width: int
    ) -> tuple[int, list[Running | None], list[int]]:
        """Rows for the requests of a burst, no more than there are rows.

        Args:
          width: blocks that a row needs.

        Returns:
          Blocks of a row, at least `width`; who lies in each row; rows that must be laid out.
        """
        self._too_wide = self._too_wide + 1 if width < self._width else 0
        if width > self._width or self._too_wide > _PATIENCE:
            self._width, self._too_wide = width, 0
            self._owners = [None] * len(self._owners)
            self.laid = None  # freed first
            size = width * self._block_tokens
            rows = len(self._owners)
            self.laid = empty_rows(self._config, rows, size, self._dtype, int8=self._int8)
        placed = [owner if owner in group else None for owner in self._owners]
        free = [row for row, owner in enumerate(placed) if owner is None]
        fresh = []
        for running in group:
            if running not in placed:
                row = free.pop(0)
                placed[row] = self._owners[row] = running
                fresh.append(row)
        return self._width, placed, fresh
