"""An environment of one's own, complete: a riddle of memory in a page of Python.

A creature behind bars at the start of a corridor tells which way to take at the fork six steps on, out
of its sight. The words are those of NetHack's language observations, which the embedded model reads.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence

import numpy as np

from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept

CREATURES = {"blue jelly": "northeast", "lichen": "southeast"}
# What is seen from each cell, west to east; the last is the fork. "|" ends a line.
CORRIDOR = tuple(
    text.replace("|", "\n")
    for text in (
        "{creature} very near northnortheast|vertical wall very near northeast|dark area very near "
        "east|horizontal wall adjacent north, southeast, and south|bars adjacent northeast|southwest "
        "corner adjacent southwest|vertical wall adjacent west|northwest room corner adjacent northwest",
        "horizontal wall near north|{creature} very near north|dark area very near east|vertical wall "
        "very near west|bars adjacent north|horizontal wall adjacent northeast, southeast, south, "
        "southwest, and northwest|stairs up adjacent west",
        "vertical wall near west|dark area very near east|stairs up very near west|vertical wall very "
        "near northwest|{creature} very near northnorthwest|horizontal wall adjacent north, northeast, "
        "southeast, south, and southwest|bars adjacent northwest",
        "stairs up near west|vertical wall near west|dark area very near east|bars very near "
        "westnorthwest|horizontal wall adjacent north, northeast, southeast, south, southwest, and "
        "northwest",
        "stairs up near west|vertical wall near west|bars near westnorthwest|dark area very near east|"
        "horizontal wall adjacent north, northeast, southeast, south, southwest, and northwest",
        "vertical wall far west|stairs up near west|bars near westnorthwest|dark area very near east|"
        "horizontal wall adjacent north, south, southwest, and northwest|southeast corner adjacent "
        "northeast|northeast room corner adjacent southeast",
        "stairs up far west|vertical wall far west|bars near westnorthwest|dark area very near "
        "northeast, east, and southeast|southeast corner adjacent north|northeast room corner adjacent "
        "south|horizontal wall adjacent southwest and northwest",
    )
)
FORK = len(CORRIDOR) - 1


class Fork:
    """Implements automem_jax.envs.base.TextEnv: many independent episodes, addressed by slot."""

    actions = ("north", "east", "south", "west", "northeast", "southeast")
    fallback_action = "east"
    instructions = (
        "A creature behind bars at the start tells which way to take at the fork: blue jelly means "
        "northeast, lichen means southeast.\n"
        "Actions: north, east, south, west, northeast, southeast"
    )

    def __init__(self, config: EnvConfig) -> None:
        if config.task != "Fork":
            raise ValueError(f"env.task: {config.task!r} is no task of Fork; set it to 'Fork'")
        self.num_slots = config.slots
        self.max_steps = config.max_steps or 20
        self._creatures: dict[int, str] = {}
        self._percepts: dict[int, Percept] = {}

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        for slot, seed in zip(slots, seeds, strict=True):
            # all that differs between episodes is drawn from the seed
            self._creatures[slot] = random.Random(f"fork {seed}").choice(list(CREATURES))
            self._percepts[slot] = self._see(slot, 0, step=0)
        return {slot: self._percepts[slot] for slot in slots}

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        for slot, written in actions.items():
            before = self._percepts.get(slot)
            if before is None or before.done:
                raise ValueError(f"slot {slot}: no running episode; call reset first")
            known = written in self.actions
            action = written if known else self.fallback_action
            cell, step = before.fields["cell"], before.step + 1
            more = {"action": action, "unknown_action": None if known else written}
            if cell == FORK and action in CREATURES.values():
                solved = action == CREATURES[self._creatures[slot]]
                more |= {"done": True, "end_reason": "task solved" if solved else "task failed"}
                more |= {"reward": 1.0 if solved else -1.0, "progression": float(solved)}
            elif action == "east" and cell < FORK:
                cell += 1
            elif action == "west" and cell > 0:
                cell -= 1
            else:
                more["message"] = "It's a wall."
            if not more.get("done") and step >= self.max_steps:
                more |= {"done": True, "end_reason": "step cap"}
            self._percepts[slot] = self._see(slot, cell, step=step, **more)
        return {slot: self._percepts[slot] for slot in actions}

    def _see(self, slot: int, cell: int, message: str = "", **more) -> Percept:
        language = CORRIDOR[cell].format(creature=self._creatures[slot])
        return Percept(
            long_text=f"message:\n{message}\n\nlanguage observation:\n{language}",
            short_text="",
            # what a template's slots may show: percept.language, percept.message, percept.map
            fields={
                "language": language,
                "message": message,
                "map": "." * cell + "@" + "." * (FORK - cell) + "<",
                "cell": cell,
            },
            actions=self.actions,
            **more,
        )

    def frame(self, slot: int) -> np.ndarray:
        picture = np.full((8, 8 * len(CORRIDOR), 3), 40, np.uint8)
        cell = self._percepts[slot].fields["cell"]
        picture[1:7, 8 * cell + 1 : 8 * cell + 7] = 255
        return picture

    def progression(self, slot: int) -> float:
        return self._percepts[slot].progression

    def snapshot(self, slot: int) -> tuple[str, Percept]:
        if slot not in self._percepts:
            raise ValueError(f"slot {slot} was never reset; call reset first")
        return self._creatures[slot], self._percepts[slot]

    def restore(self, slot: int, snapshot: tuple[str, Percept]) -> Percept:
        self._creatures[slot], percept = snapshot
        self._percepts[slot] = dataclasses.replace(percept)
        return self._percepts[slot]

    def close(self) -> None:
        pass
