"""The scripted player whose mixed memory habits the embedded base imitates.

It plays MiniHack-Memento-Short-F2-v0 through the agent's own protocol. Its gameplay is sound given what
it can read in its prompt; its note-taking is not: per episode it is drawn whether it records the cue
and whether it consults its notes at the fork.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from automem_jax.agent.grammar import format_operation
from automem_jax.envs.base import Percept
from automem_jax.text.messages import Request

CUE = re.compile(r"blue jelly|lichen")
NORTH_CUE = "blue jelly"
CORRIDOR_LENGTH = 6  # moves east from the start to the cell where the fork comes into sight
TRIVIA = ("bars", "stairs up", "dark area", "horizontal wall", "vertical wall")


@dataclass(frozen=True)
class Habits:
    """Probabilities; those named "episode" are drawn once an episode, the others at every chance.

    Attributes:
      record_cue: episode: writes the cue down while it is in sight.
      record_trivia: episode: writes something of no use down while the cue is in sight, and not the
        cue. What is left of 1: neither.
      consult: episode: looks into its notes at the fork.
      trivia: LOG turn: writes something of no use, whatever the episode's habit.
      idle_consult: PLAN turn elsewhere: looks into its notes.
      search: a consultation is a SEARCH, not a READ.
      done_at_once: DONE is in the same reply as the write; else it follows in the next.
      stray_action, stray_consult (_at_fork), stray_log (_of_cue): turn: does something off the
        script, which is played but never learnt; what follows is. So the base has met full notes,
        needless reads and wrong squares.
    """

    record_cue: float = 0.5
    record_trivia: float = 0.36
    consult: float = 0.6
    trivia: float = 0.04
    idle_consult: float = 0.01
    search: float = 0.15
    done_at_once: float = 0.6
    stray_action: float = 0.04
    stray_consult: float = 0.06
    stray_consult_at_fork: float = 0.25
    stray_log: float = 0.04
    stray_log_of_cue: float = 0.15


@dataclass(frozen=True)
class Answer:
    """A reply, and whether the base learns it."""

    text: str
    learnt: bool


class MementoPlayer:
    """Plays one episode. `notes` is the name of the notes file in this episode's template."""

    def __init__(self, habits: Habits, rng: np.random.Generator, notes: str):
        self._habits, self._rng, self._notes = habits, rng, notes
        shares = (habits.record_cue, habits.record_trivia)
        self._records = str(rng.choice(["cue", "trivia", ""], p=[*shares, 1.0 - sum(shares)]))
        self._consults = rng.random() < habits.consult
        self._start: tuple[int, int] | None = None
        self._arm: int | None = None
        self._recorded = False  # what the habit asks for
        self.at_fork = False

    def answer(self, request: Request, percept: Percept) -> Answer:
        """The reply to one request of the agent."""
        if request.key.phase == "log":
            return self._log(request, percept)
        return self._plan(request, percept)

    def _log(self, request: Request, percept: Percept) -> Answer:
        if request.key.turn > 0:
            return Answer("<|DONE|>", True)
        rng, habits = self._rng, self._habits
        cue = CUE.search(percept.fields["language"])
        if rng.random() < (habits.stray_log_of_cue if cue else habits.stray_log):
            line = f"{cue.group()} behind bars" if cue else str(rng.choice(TRIVIA))
            self._recorded |= bool(cue) and self._records == "cue"
            return Answer(self._append(line), False)
        if cue and self._records == "cue" and not self._recorded:
            self._recorded = True
            return Answer(self._append(f"{cue.group()} behind bars"), True)
        wants_trivia = cue and self._records == "trivia" and not self._recorded
        if wants_trivia or rng.random() < habits.trivia:
            self._recorded |= bool(wants_trivia)
            seen = [line for line in TRIVIA if line in percept.fields["language"]]
            if seen:
                return Answer(self._append(str(rng.choice(seen))), True)
        return Answer("<|DONE|>", True)

    def _append(self, line: str) -> str:
        closing = "<|DONE|>" if self._rng.random() < self._habits.done_at_once else ""
        return format_operation("APPEND", self._notes, line) + closing

    def _plan(self, request: Request, percept: Percept) -> Answer:
        rng, habits = self._rng, self._habits
        x, y = (int(v) for v in percept.fields["blstats"][:2])
        if self._start is None:
            self._start = (x, y)
        dx, dy = x - self._start[0], y - self._start[1]
        if request.key.turn == 0:
            shown = CUE.search("\n".join(m.content for m in request.messages))
            self.at_fork = dx == CORRIDOR_LENGTH and dy == 0
            stray = habits.stray_consult_at_fork if self.at_fork else habits.stray_consult
            if rng.random() < stray:
                return Answer(self._look(), False)
            wants = self._consults and not shown
            if not self.at_fork:
                wants = rng.random() < habits.idle_consult
            if wants:
                return Answer(self._look(), True)
        if rng.random() < habits.stray_action:
            return Answer(_act(str(rng.choice(percept.actions))), False)
        return Answer(_act(self._move(request, dx, dy)), True)

    def _look(self) -> str:
        if self._rng.random() < self._habits.search:
            return format_operation("SEARCH", self._notes, "behind")
        return format_operation("READ", self._notes)

    def _move(self, request: Request, dx: int, dy: int) -> str:
        """The right step from a square, given what the prompt shows; a coin at the fork without a cue."""
        if dy == 0 and dx < CORRIDOR_LENGTH:
            return "east"
        if dy == 0:
            cues = CUE.findall("\n".join(m.content for m in request.messages))
            if cues:
                self._arm = -1 if cues[-1] == NORTH_CUE else 1
            elif self._arm is None:
                self._arm = -1 if self._rng.random() < 0.5 else 1
            if dx == CORRIDOR_LENGTH:
                return "northeast" if self._arm < 0 else "southeast"
            return "north" if self._arm < 0 else "south"
        side = "north" if dy < 0 else "south"
        if abs(dy) == 1:
            return side
        if abs(dy) == 2:
            return f"{side}east"
        return "east"


def _act(name: str) -> str:
    return f"<|ACTION|>{name}<|END|>"
