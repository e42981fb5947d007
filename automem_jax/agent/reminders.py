"""Observers of the agent's own doings: its last actions, what has been the case how long ago, the
advice that fits now, and the state of its files."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from automem_jax.agent.compass import OPPOSITE, direction_of
from automem_jax.agent.conditions import Resolve, holds, substitute
from automem_jax.agent.template import OWN_KINDS, FileSpec
from automem_jax.envs.base import Percept

NEVER = -1
FileIndex = Sequence[tuple[str, FileSpec, int]]  # name, spec and number of lines of every file


class ActionWindow:
    """The last actions. Param: size.

    Outputs: recent (oldest first); repeats (how often the last action was taken in a row);
    reversals (A B A patterns in the window); unique (distinct actions); oscillating (see below);
    text ("Do x3, Move North", with "(going back and forth)" when oscillating).

    Oscillating is: two opposite moves in turn, A B A B; or the same two to four places (position
    and level where the percept has them, else what is seen) in turn, twice over.
    """

    OUTPUTS = ("recent", "repeats", "reversals", "unique", "oscillating", "text")
    PARAMS = ("size",)
    _CYCLES = (2, 3, 4)

    def __init__(self, size: int = 16) -> None:
        self._recent: collections.deque[str] = collections.deque(maxlen=size)
        self._last_moves: collections.deque[str] = collections.deque(maxlen=4)
        self._places: collections.deque[Any] = collections.deque(maxlen=2 * self._CYCLES[-1])
        self._repeats = 0

    def update(self, percept: Percept) -> None:
        fields = percept.fields
        if "x" in fields and "y" in fields:
            self._places.append((fields["x"], fields["y"], fields.get("dlvl")))
        else:
            self._places.append(hash(percept.long_text))
        if percept.action is None:
            return
        same = bool(self._recent) and self._recent[-1] == percept.action
        self._repeats = self._repeats + 1 if same else 1
        self._recent.append(percept.action)
        self._last_moves.append(direction_of(percept.action))

    def outputs(self) -> dict[str, Any]:
        recent = tuple(self._recent)
        triples = zip(recent, recent[1:], recent[2:], strict=False)
        oscillating = self._oscillates()
        runs = ((name, len(list(run))) for name, run in itertools.groupby(recent))
        text = ", ".join(f"{name} x{n}" if n > 1 else name for name, n in runs)
        return {
            "recent": recent,
            "repeats": self._repeats,
            "reversals": sum(1 for a, b, c in triples if a == c != b),
            "unique": len(set(recent)),
            "oscillating": oscillating,
            "text": text + (" (going back and forth)" if oscillating else ""),
        }

    def _oscillates(self) -> bool:
        moves = tuple(self._last_moves)
        if len(moves) == 4 and moves[:2] == moves[2:] and moves[0] and moves[1]:
            if OPPOSITE[moves[0]] == moves[1]:
                return True
        places = tuple(self._places)
        return any(
            len(places) >= 2 * n
            and places[-n:] == places[-2 * n : -n]
            and len(set(places[-n:])) > 1
            for n in self._CYCLES
        )


class Since:
    """How long ago a condition held.

    Param: when. Outputs: steps (percepts since it last held: 0 now, -1 never); ever; times (at how
    many percepts it held).
    """

    OUTPUTS = ("steps", "ever", "times")
    PARAMS = ("when",)
    SCOPE = True

    def __init__(self, when: Any, *, resolve: Resolve) -> None:
        self._when = when
        self._resolve = resolve
        self._steps = NEVER
        self._times = 0

    def update(self, percept: Percept) -> None:
        if holds(self._when, self._resolve):
            self._steps = 0
            self._times += 1
        elif self._steps != NEVER:
            self._steps += 1

    def outputs(self) -> dict[str, Any]:
        return {"steps": self._steps, "ever": self._times > 0, "times": self._times}


class Advisor:
    """What a list of rules has to say.

    Params: rules ([{when: condition, say: text}]; `{path}`s in a text are filled in); most (how many
    are given). Outputs: advice (what the first rules that hold say, a line each); count (how many
    that is).
    """

    OUTPUTS = ("advice", "count")
    PARAMS = ("rules", "most")
    SCOPE = True

    def __init__(
        self, rules: Sequence[Mapping[str, Any]], most: int = 1, *, resolve: Resolve
    ) -> None:
        self._rules = tuple((rule["when"], rule["say"]) for rule in rules)
        self._most = most
        self._resolve = resolve

    def update(self, percept: Percept) -> None:
        """Nothing to keep: rules are asked when the advice is."""

    def outputs(self) -> dict[str, Any]:
        fitting = (say for when, say in self._rules if holds(when, self._resolve))
        given = [substitute(say, self._resolve) for say in itertools.islice(fitting, self._most)]
        return {"advice": "\n".join(given), "count": len(given)}


class FileHealth:
    """Which files are too long, and which the agent neglects.

    Param: stale_steps (0: never stale). Outputs: oversized (names of files with more lines than
    their soft_lines); stale (names of the agent's own files to which nothing was written for
    stale_steps steps); text (both, with figures).
    """

    OUTPUTS = ("oversized", "stale", "text")
    PARAMS = ("stale_steps",)
    FILES = True

    def __init__(self, stale_steps: int = 0) -> None:
        self._stale_steps = stale_steps
        self._step = 0
        self._index: FileIndex = ()
        self._lines: dict[str, int] = {}
        self._written_at: dict[str, int] = {}

    def update(self, percept: Percept) -> None:
        self._step = percept.step

    def observe_files(self, index: FileIndex, written: Iterable[str]) -> None:
        """Takes the files as they are now; `written` names those that a write went to."""
        self._index = index
        written = frozenset(written)
        for name, _, count in index:
            if self._lines.get(name) != count or name in written:
                self._lines[name] = count
                self._written_at[name] = self._step

    def outputs(self) -> dict[str, Any]:
        oversized = {
            name: f"{name} has {count} lines of {spec.soft_lines}"
            for name, spec, count in self._index
            if 0 < spec.soft_lines < count
        }
        ages = {
            name: self._step - self._written_at[name]
            for name, spec, _ in self._index
            if self._stale_steps and spec.kind in OWN_KINDS
        }
        stale = {
            name: f"nothing written to {name} for {age} steps"
            for name, age in ages.items()
            if age >= self._stale_steps
        }
        return {
            "oversized": tuple(oversized),
            "stale": tuple(stale),
            "text": "; ".join((*oversized.values(), *stale.values())),
        }
