"""Where the player is and which way leads on; all from the typed grid.

Directions are compass words ("north", "northeast", ...). Coordinates are the level's own in NetHack;
in Crafter they are reckoned from where the episode began (0,0), y growing southward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automem_jax.agent.compass import OFFSETS, STRAIGHT, place
from automem_jax.agent.level_map import CREATURES, LevelMap, MapObserver
from automem_jax.agent.routes import FREE, Roads, step_kind
from automem_jax.agent.surroundings import HAZARDS
from automem_jax.envs.grid import Terrain, Thing

_BY_WORD = {kind.word: int(kind) for kind in Terrain if kind > Terrain.HIDDEN}


class Pose(MapObserver):
    """Where the player is.

    Params: actions (action -> direction; default: the games' own move names). Outputs: x, y; level
    (its name, "" where there is one world); key ("level,x,y"); visits (arrivals at this cell);
    failed (directions tried in vain from this cell); moved (the last action changed the position);
    still (percepts in a row without a move); text.
    """

    OUTPUTS = ("x", "y", "level", "key", "visits", "failed", "moved", "still", "text")
    PARAMS = ("actions",)

    def __init__(
        self, actions: Mapping[str, str] | None = None, *, where: LevelMap | None = None
    ) -> None:
        super().__init__(where, actions)

    def outputs(self) -> dict[str, Any]:
        where = self._where
        if where.grid is None:
            empty = {"x": 0, "y": 0, "level": "", "key": "", "visits": 0, "failed": ()}
            return empty | {"moved": False, "still": 0, "text": ""}
        x, y, level = where.x, where.y, where.level
        visits, failed = level.visits_at(x, y), level.failed_from(x, y)
        told = [f"level {where.name}, " if where.name else "", f"x {x}, y {y}"]
        told.append(f"; here {visits} times" if visits > 1 else "; here for the first time")
        if failed:
            told.append(f"; no way {', '.join(failed)}")
        if where.still:
            told.append(f"; not moved for {where.still} step{'s' if where.still > 1 else ''}")
        return {
            "x": x,
            "y": y,
            "level": where.name,
            "key": f"{where.name},{x},{y}",
            "visits": visits,
            "failed": failed,
            "moved": where.moved,
            "still": where.still,
            "text": "".join(told),
        }


class Explore(MapObserver):
    """Where to go to see something new.

    Outputs: around (direction -> visits, of the directions that are passable); unvisited (those
    never visited); least_visited (the direction with the fewest visits; straight before diagonal);
    frontier (first step towards the nearest known cell that borders on the unseen, "" for none);
    frontier_distance (steps); text.
    """

    OUTPUTS = ("unvisited", "least_visited", "around", "frontier", "frontier_distance", "text")
    PARAMS = ()

    def outputs(self) -> dict[str, Any]:
        where = self._where
        if where.grid is None:
            empty = dict.fromkeys(self.OUTPUTS, "")
            return empty | {"unvisited": (), "around": {}, "frontier_distance": 0}
        level = where.level
        failed = level.failed_from(where.x, where.y)
        around = {
            word: level.visits_at(where.x + dx, where.y + dy)
            for word, (dx, dy) in OFFSETS.items()
            if word not in failed and step_kind(where, word) == FREE
        }
        unvisited = tuple(word for word, visits in around.items() if not visits)
        least = min(around, key=lambda w: (around[w], w not in STRAIGHT), default="")
        path = self._way_to_frontier()
        told = []
        if around:
            told.append("visits: " + ", ".join(f"{w} {n}" for w, n in around.items()))
        told.append(
            f"nearest unexplored edge: {len(path)} steps, first {path[0]}"
            if path
            else "no unexplored edge is known on this level"
        )
        return {
            "unvisited": unvisited,
            "least_visited": least,
            "around": around,
            "frontier": path[0] if path else "",
            "frontier_distance": len(path),
            "text": "; ".join(told),
        }

    def _way_to_frontier(self) -> tuple[str, ...]:
        where = self._where
        level = where.level
        for avoid in (HAZARDS, ()):
            roads = Roads(where, avoid)
            edges = roads.enter & roads.beside(roads.bits(level.terrain == Terrain.UNKNOWN))
            if where.grid.relative:
                edges |= roads.enter & roads.bits(_rim(level.terrain))
            edges &= ~roads.bits(level.visits > 0)
            found = roads.way(where.x, where.y, edges) if edges else None
            if found is not None:
                return found[0]
        return ()


def _rim(terrain: np.ndarray) -> np.ndarray:
    """The cells along the edges of a map that grows: what lies beyond was never seen."""
    rim = np.zeros(terrain.shape, bool)
    rim[[0, -1], :] = True
    rim[:, [0, -1]] = True
    return rim


class GoalNav(MapObserver):
    """The way to the first goal that is known.

    Params: goals (terrain words such as "stairs down", or names of things, in order of preference);
    avoid (terrain words that are walked on only where no other way is known; water and lava never
    are, unless the player flies). Outputs: seen (some goal is known); goal (its word); x, y; here
    (the player stands on it); direction (next step, "" for none); distance (steps of the way, 0
    where there is none); straight (steps if nothing stood in the way); path (directions); detour
    (the way is longer than straight, or leads past what is avoided); text. A goal that
    nobody can stand on (tree, water in Crafter) is reached by facing it.
    """

    OUTPUTS = (
        "seen",
        "goal",
        "x",
        "y",
        "here",
        "direction",
        "distance",
        "straight",
        "path",
        "detour",
        "text",
    )
    PARAMS = ("goals", "avoid")

    def __init__(
        self,
        goals: Sequence[str],
        avoid: Sequence[str] = ("lava", "water", "trap"),
        *,
        where: LevelMap | None = None,
    ) -> None:
        super().__init__(where)
        self._goals = tuple(goals)
        self._avoid = tuple(t for t in Terrain if t.word in avoid)

    def outputs(self) -> dict[str, Any]:
        where = self._where
        nothing = {"seen": False, "goal": "", "x": 0, "y": 0, "here": False, "direction": ""}
        nothing |= {"distance": 0, "straight": 0, "path": (), "detour": False}
        wanted = " or ".join(self._goals)
        if where.grid is None:
            return nothing | {"text": ""}
        known = [(goal, *self._find(goal)) for goal in self._goals]
        known = [(goal, mask) for goal, mask, found in known if found]
        if not known:
            return nothing | {"text": f"{wanted}: not seen on this level yet"}
        for avoid in (self._avoid, ()) if self._avoid else ((),):
            roads = Roads(where, avoid)
            for goal, mask in known:
                found = roads.way(where.x, where.y, roads.bits(mask))
                if found is not None:
                    return self._way(goal, *found)
        goal, mask = known[0]
        cells = [(c + where.level.left, r + where.level.top) for r, c in np.argwhere(mask).tolist()]
        x, y = min(cells, key=lambda cell: self._straight(*cell))
        at = place(x - where.x, y - where.y)
        return nothing | {
            "seen": True,
            "goal": goal,
            "x": x,
            "y": y,
            "straight": self._straight(x, y),
            "text": f"{goal} {at}: no way there is known yet",
        }

    def _way(self, goal: str, path: tuple[str, ...], cell: tuple[int, int]) -> dict[str, Any]:
        where, (x, y) = self._where, cell
        straight = self._straight(x, y)
        text = f"{goal} {place(x - where.x, y - where.y)}"
        if path:
            text += f": {len(path)} step{'s' if len(path) > 1 else ''}, first {path[0]}"
        detour = len(path) > straight
        return {
            "seen": True,
            "goal": goal,
            "x": x,
            "y": y,
            "here": not path,
            "direction": path[0] if path else "",
            "distance": len(path),
            "straight": straight,
            "path": path,
            "detour": detour,
            "text": text + (" (a detour)" if detour else ""),
        }

    def _straight(self, x: int, y: int) -> int:
        dx, dy = abs(x - self._where.x), abs(y - self._where.y)
        return max(dx, dy) if self._where.grid.diagonals else dx + dy

    def _find(self, goal: str) -> tuple[np.ndarray, bool]:
        """Where a goal is known to be, bool [H, W]: remembered ground, things in sight."""
        where, level = self._where, self._where.level
        mask = level.terrain == _BY_WORD.get(goal, 255)
        for (x, y), thing in where.things.items():
            if _is_called(thing, goal):
                mask[y - level.top, x - level.left] = True
        return mask, bool(mask.any())


def _is_called(thing: Thing, name: str) -> bool:
    wanted = name.lower()
    return thing.name.lower() == wanted or (thing.kind == wanted and thing.kind not in CREATURES)
