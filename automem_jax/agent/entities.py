"""Creatures and things in sight, by distance and direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from automem_jax.agent.compass import bearing, place
from automem_jax.agent.level_map import CREATURES
from automem_jax.envs.base import Percept
from automem_jax.envs.grid import Grid, Terrain

_MOST_TOLD = 12
_BY_WORD = {kind.word: kind for kind in Terrain if kind > Terrain.HIDDEN}


class Entities:
    """What is in sight, nearest first.

    Params: names (of things or, as words, of terrain: "zombie", "stairs down"); kinds ("monster",
    "pet", "unseen", "projectile", "object", "boulder", "statue", "trap", "cloud"); with neither,
    creatures that are not pets, and projectiles; radius (what counts as within). Outputs: visible
    (texts: "zombie 2 north"); nearest (its name, "" for none); distance (steps to it, 0 for none);
    direction (its bearing); within (how many are inside the radius); text.
    """

    OUTPUTS = ("visible", "nearest", "distance", "direction", "within", "text")
    PARAMS = ("names", "kinds", "radius")

    def __init__(
        self, names: Sequence[str] = (), kinds: Sequence[str] = (), radius: int = 5
    ) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._kinds = frozenset(kinds)
        if not names and not kinds:
            self._kinds = frozenset((*CREATURES, "projectile"))
        self._terrain = tuple(_BY_WORD[n] for n in sorted(self._names & _BY_WORD.keys()))
        self._radius = int(radius)
        self._seen: list[tuple[int, int, int, str]] = []  # distance, dx, dy, name
        self._doubtful = False

    def update(self, percept: Percept) -> None:
        grid = percept.fields.get("grid")
        self._seen = [] if grid is None else self._look(grid)
        self._doubtful = "Hallucinating" in percept.fields.get("conditions", ())

    def outputs(self) -> dict[str, Any]:
        seen = self._seen
        visible = tuple(f"{name} {place(dx, dy)}" for _, dx, dy, name in seen)
        told = ", ".join(visible[:_MOST_TOLD]) or "none in sight"
        if len(visible) > _MOST_TOLD:
            told += f" and {len(visible) - _MOST_TOLD} more"
        if self._doubtful:
            told += " (you hallucinate: names mean nothing)"
        distance, dx, dy, name = seen[0] if seen else (0, 0, 0, "")
        return {
            "visible": visible,
            "nearest": name,
            "distance": distance,
            "direction": bearing(dx, dy),
            "within": sum(1 for entry in seen if entry[0] <= self._radius),
            "text": told,
        }

    def _look(self, grid: Grid) -> list[tuple[int, int, int, str]]:
        found = [
            (thing.x - grid.x, thing.y - grid.y, thing.name)
            for thing in grid.things
            if self._wants(thing.kind, thing.name)
        ]
        for kind in self._terrain:
            rows, columns = np.nonzero(grid.terrain == kind)
            found += [
                (x - grid.x, y - grid.y, kind.word)
                for x, y in zip(columns.tolist(), rows.tolist(), strict=True)
            ]
        measured = [
            (max(abs(dx), abs(dy)) if grid.diagonals else abs(dx) + abs(dy), dx, dy, name)
            for dx, dy, name in found
        ]
        return sorted(measured, key=lambda e: (e[0], abs(e[1]) + abs(e[2]), e))

    def _wants(self, kind: str, name: str) -> bool:
        if self._kinds and kind not in self._kinds:
            return False
        return not self._names or name.lower() in self._names
