"""Texts that nearly repeat each other: MinHash finds candidates, the exact overlap decides."""

from __future__ import annotations

import zlib
from collections import defaultdict

import numpy as np

_SHINGLE = 4  # characters
_PRIME = np.uint64((1 << 31) - 1)
_BANDS, _ROWS = 16, 4


class NearCopies:
    """Counts texts that overlap. Memory and time are linear in the texts added.

    Two texts are near copies where the Jaccard overlap of their sets of 4-character pieces reaches
    `overlap`. A text belongs to the first one seen that it nearly copies. Pairs are looked for in 16
    bands of 4 MinHash values each: a pair that overlaps by 0.8 is found with probability 0.9998.
    """

    def __init__(self, overlap: float, seed: int = 0) -> None:
        self._overlap = overlap
        source = np.random.default_rng(seed)
        size = _BANDS * _ROWS
        self._factors = source.integers(1, int(_PRIME), size, dtype=np.uint64)[:, None]
        self._offsets = source.integers(0, int(_PRIME), size, dtype=np.uint64)[:, None]
        self._bands: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(_BANDS)]
        self._pieces: list[frozenset[int]] = []
        self._known: dict[str, int] = {}

    def original(self, text: str) -> int:
        """The number of the first text seen that this one nearly copies; its own where there is none."""
        if text in self._known:
            return self._known[text]
        pieces = _pieces(text)
        keys = [row.tobytes() for row in self._minima(pieces).reshape(_BANDS, _ROWS)]
        candidates = {n for band, key in zip(self._bands, keys, strict=True) for n in band[key]}
        for number in sorted(candidates):
            if overlap(pieces, self._pieces[number]) >= self._overlap:
                self._known[text] = number
                return number
        number = len(self._pieces)
        self._pieces.append(pieces)
        for band, key in zip(self._bands, keys, strict=True):
            band[key].append(number)
        self._known[text] = number
        return number

    def _minima(self, pieces: frozenset[int]) -> np.ndarray:
        values = np.fromiter(pieces, np.uint64, len(pieces)) % _PRIME
        return ((self._factors * values + self._offsets) % _PRIME).min(axis=1)


def overlap(a: frozenset[int], b: frozenset[int]) -> float:
    """Jaccard overlap of two sets, in [0, 1]."""
    return len(a & b) / len(a | b)


def _pieces(text: str) -> frozenset[int]:
    data = text.casefold().encode("utf-8", "surrogatepass")
    count = max(1, len(data) - _SHINGLE + 1)
    return frozenset(zlib.crc32(data[i : i + _SHINGLE]) for i in range(count))
