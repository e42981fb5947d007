"""The scripted player whose mixed memory habits the embedded base imitates.

It plays MiniHack-Memento-Short-F2-v0 (MementoPlayer) or MiniHack-Memento-F4-v0 (MementoF4Player) through
the agent's own protocol. Its gameplay is sound given what it can read in its prompt; its note-taking is
not: per episode it is drawn whether it records the cue and whether it consults its notes at the fork.
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
    """Plays one episode. `notes` is the name of the notes file in this episode's template.

    Attributes:
      at_fork: whether the last PLAN was at the fork.
      turning: whether it was between the fork and an arm that does not begin beside it.
      corridor: moves east from the start to the cell where the fork comes into sight.
    """

    corridor = CORRIDOR_LENGTH

    def __init__(self, habits: Habits, rng: np.random.Generator, notes: str):
        self._habits, self._rng, self._notes = habits, rng, notes
        shares = (habits.record_cue, habits.record_trivia)
        self._records = str(rng.choice(["cue", "trivia", ""], p=[*shares, 1.0 - sum(shares)]))
        self._consults = rng.random() < habits.consult
        self._start: tuple[int, int] | None = None
        self._arm: int | None = None
        self._recorded = False  # what the habit asks for
        self.at_fork = self.turning = False

    def cue(self, text: str) -> str:
        """The cue of a text, the last one where there are several; empty without one."""
        return (CUE.findall(text) or [""])[-1]

    def note(self, cue: str) -> str:
        """The line that records a cue."""
        return f"{cue} behind bars"

    def skips(self, percept: Percept) -> bool:
        """Whether the next step, east, is taken without asking the agent: nothing is learnt from it."""
        return False

    def answer(self, request: Request, percept: Percept) -> Answer:
        """The reply to one request of the agent."""
        if request.key.phase == "log":
            return self._log(request, percept)
        return self._plan(request, percept)

    def _log(self, request: Request, percept: Percept) -> Answer:
        if request.key.turn > 0:
            return Answer("<|DONE|>", True)
        rng, habits = self._rng, self._habits
        cue = self.cue(percept.fields["language"])
        if rng.random() < (habits.stray_log_of_cue if cue else habits.stray_log):
            line = self.note(cue) if cue else str(rng.choice(TRIVIA))
            self._recorded |= bool(cue) and self._records == "cue"
            return Answer(self._append(line), False)
        if cue and self._records == "cue" and not self._recorded:
            self._recorded = True
            return Answer(self._append(self.note(cue)), True)
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
        dx, dy = self._moved(percept)
        if request.key.turn == 0:
            shown = self.cue(_said(request))
            self.at_fork = dx == self.corridor and dy == 0
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

    def _moved(self, percept: Percept) -> tuple[int, int]:
        """Cells east and south of the start."""
        x, y = (int(v) for v in percept.fields["blstats"][:2])
        if self._start is None:
            self._start = (x, y)
        return x - self._start[0], y - self._start[1]

    def _look(self) -> str:
        if self._rng.random() < self._habits.search:
            return format_operation("SEARCH", self._notes, "behind")
        return format_operation("READ", self._notes)

    def _move(self, request: Request, dx: int, dy: int) -> str:
        """The right step from a square, given what the prompt shows; a coin at the fork without a cue."""
        if dy == 0 and dx < CORRIDOR_LENGTH:
            return "east"
        if dy == 0:
            cue = self.cue(_said(request))
            if cue:
                self._arm = -1 if cue == NORTH_CUE else 1
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


class MementoF4Player(MementoPlayer):
    """Four arms at the end of a long corridor; the cue is a pair of creatures.

    The corridor looks the same for some fifty steps: one in `asked` of them is put to the agent.
    """

    corridor = 59
    asked = 0.06
    _alike = range(10, 56)  # moves east of the start
    _first_moves = ("north", "northeast", "southeast", "south")  # northernmost arm first

    def cue(self, text: str) -> str:
        jelly, mold = (re.findall(kind, text) for kind in (r"(\w+) jelly", r"(\w+) mold"))
        return f"{jelly[-1]} jelly, {mold[-1]} mold" if jelly and mold else ""

    def skips(self, percept: Percept) -> bool:
        dx, dy = self._moved(percept)
        return dy == 0 and dx in self._alike and self._rng.random() >= self.asked

    def _move(self, request: Request, dx: int, dy: int) -> str:
        """The right step from a square, given what the prompt shows; any arm without a cue."""
        self.turning = dx == self.corridor and dy != 0
        if dx != self.corridor:
            return "east"
        if dy == 0:
            cue = self.cue(_said(request))
            if cue:
                self._arm = 2 * ("green" in cue) + ("spotted" in cue)
            elif self._arm is None:
                self._arm = int(self._rng.integers(4))
            return self._first_moves[self._arm]
        side = "north" if dy < 0 else "south"
        return (side, f"{side}east", "east")[abs(dy) - 1]


def _said(request: Request) -> str:
    return "\n".join(m.content for m in request.messages)


def _act(name: str) -> str:
    return f"<|ACTION|>{name}<|END|>"
