"""Did the last action do anything? Clocks and what moves by itself do not count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automem_jax.agent.compass import WORDS, place
from automem_jax.agent.conditions import as_text
from automem_jax.agent.level_map import CREATURES, Before, LevelMap, MapObserver
from automem_jax.agent.paths import percept_value
from automem_jax.envs.base import Percept
from automem_jax.envs.grid import Terrain, Thing

_CLOCKS = ("T", "Turn", "Time", "Step")
_VITALS = ("health", "food", "drink", "energy", "mana")
_FED = ("food", "drink", "energy")  # vitals that only rise by an action
_LYING = ("object", "boulder", "statue")
# Numbers that change by what the player does, not by the clock.
_NUMBERS = {
    "gold": "gold",
    "experience_points": "experience",
    "experience_level": "experience level",
    "max_hp": "maximum hit points",
    "ac": "armour class",
}
_MOST_TOLD = 3
_PET_REACH = 2  # cells that a creature covers in a turn
# Messages that say that nothing came of it.
_VAIN = re.compile(
    r"It'?s (?:a |an )?(?:wall|solid stone|tree|iron bars|closed door)|"
    r"There (?:is|are) (?:nothing|no|a staircase|a ladder)|There(?:'s nothing| isn't)|"
    r"You (?:don't have|have no|have a little trouble|have already gone|can't|cannot|are unable|"
    r"find nothing|hear|stop\b|see (?:no|here)|wait|move right into|try to move)|"
    r"(?:This|That|The) (?:door|doorway) (?:is|resists)|The boulder won't|Perhaps that's why|"
    r"However,|In vain|Never ?mind|Unknown command|Nothing |Invalid|No such|What a strange|"
    r"That (?:is|was) |Not |.{0,60} (?:is|are) in the way",
    re.IGNORECASE,
)
_PET_DOES = re.compile(r"[A-Z]\w* (?:\w+ly )?\w+s\b")
_NO_NAMES = ("This", "That", "There", "Its", "His", "Her", "As", "Is", "Yours", "Thus")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")


class ObsDiff:
    """Whether the last action changed anything that the agent can see.

    With `paths`, those parts of the percept are compared as text. Without, a percept that has a
    typed grid is compared by what an action can change: position, ground, things lying about, what
    is carried, where the player faces, what the game asks, and messages that tell of an effect; not
    the clock, creatures that move, daylight, hunger, wounds or a message told again. Without either
    the whole text is compared.

    Params: paths (percept paths that are compared), clocks (words whose number is ignored in texts,
    e.g. NetHack's `T:12`). Outputs: changed (true for the first percept); run_length (percepts in a
    row that look the same, at least 1); effect (in words: "moved east", "wood +1", "nothing
    changed").
    """

    OUTPUTS = ("changed", "run_length", "effect")
    PARAMS = ("paths", "clocks")
    MAP = True

    def __init__(
        self,
        paths: Sequence[str] = (),
        clocks: Sequence[str] = _CLOCKS,
        *,
        where: LevelMap | None = None,
    ) -> None:
        words = "|".join(re.escape(word) for word in clocks)
        self._clock = re.compile(rf"\b(?:{words})\s*[:=]?\s*\d+", re.IGNORECASE) if words else None
        self._paths = tuple(paths)
        self._last: list[str] | None = None
        self._typed = _TypedDiff(where)
        self._changed = True
        self._run_length = 0
        self._effect = ""

    def update(self, percept: Percept) -> None:
        if not self._paths and percept.fields.get("grid") is not None:
            effects, remarks = self._typed.compare(percept)
            self._changed = bool(effects)
            told = ", ".join(effects) if effects else "nothing changed"
            self._effect = f"{told} ({'; '.join(remarks)})" if remarks else told
        else:
            paths = self._paths or ("percept.long_text",)
            now = [as_text(percept_value(percept, path)) for path in paths]
            if self._clock:
                now = [self._clock.sub("", text) for text in now]
            self._changed = now != self._last
            self._last = now
            self._effect = "something changed" if self._changed else "nothing changed"
        self._run_length = 1 if self._changed else self._run_length + 1

    def outputs(self) -> dict[str, Any]:
        return {
            "changed": self._changed,
            "run_length": self._run_length,
            "effect": self._effect,
        }


class _TypedDiff(MapObserver):
    """The comparison of a percept with the one before, part by part."""

    def __init__(self, where: LevelMap | None) -> None:
        super().__init__(where)
        self._before: Percept | None = None

    def compare(self, percept: Percept) -> tuple[list[str], list[str]]:
        """What the last action changed, and remarks that are no effect of it."""
        self.update(percept)
        where, before, self._before = self._where, self._before, percept
        then = where.before
        old, old_things, known = then.place, then.things, then.terrain
        if before is None:
            return ["the episode began"], []
        effects = _move(where, old, before, percept)
        if where.grid.relative:
            effects += _crafted(before, percept)
            effects += self._faced_ground(percept, then)
            effects += self._blow(before, percept, then)
        elif old[0] == where.name:
            effects += _ground(where, known)
            effects += _lying(old_things, where.things, where, old)
        effects += _carried(before.fields, percept.fields)
        effects += _numbers(before.fields, percept.fields)
        effects += _asked(before.fields, percept.fields)
        said, remarks = _messages(
            before.fields, percept.fields, (*old_things.values(), *where.things.values())
        )
        effects += said
        remarks += _wounds(before.fields, percept.fields)
        return effects, remarks

    def _faced_ground(self, percept: Percept, then: Before) -> list[str]:
        """The cell in front: mined, placed on."""
        where, known = self._where, then.terrain
        facing = percept.fields.get("facing")
        if known is None or facing is None or where.moved or then.name != where.name:
            return []
        x, y = where.x + int(facing[0]), where.y + int(facing[1])
        row, column = y - then.top, x - then.left
        if not (0 <= row < known.shape[0] and 0 <= column < known.shape[1]):
            return []
        was, now = Terrain(int(known[row, column])), where.level.at(x, y)
        if was == now or Terrain.UNKNOWN in (was, now) or Terrain.HIDDEN in (was, now):
            return []
        return [f"{was.word} became {now.word}"]

    def _blow(self, before: Percept, percept: Percept, then: Before) -> list[str]:
        """A creature was struck: it stood in front when the player acted."""
        facing = before.fields.get("facing")
        if percept.action not in ("Do", "do") or facing is None or before.fields.get("sleeping"):
            return []
        target = then.things.get((then.x + int(facing[0]), then.y + int(facing[1])))
        return [f"struck {target.name}"] if target is not None and target.kind == "monster" else []


def _move(
    where: LevelMap, old: tuple[str, int, int], before: Percept, percept: Percept
) -> list[str]:
    if where.name != old[0]:
        return [f"came to level {where.name}"]
    dx, dy = where.x - old[1], where.y - old[2]
    if (dx, dy) != (0, 0):
        if (dx, dy) in WORDS:
            return [f"moved {WORDS[dx, dy]}"]
        return [f"moved {place(dx, dy)}"]
    turned = percept.fields.get("facing")
    if turned is not None and tuple(turned) != tuple(before.fields.get("facing", turned)):
        return [f"turned {WORDS.get((int(turned[0]), int(turned[1])), 'round')}"]
    return []


def _crafted(before: Percept, percept: Percept) -> list[str]:
    """Inventory by numbers, meals, sleep and achievements."""
    told = []
    old, new = before.fields.get("inventory"), percept.fields.get("inventory")
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            change = new.get(name, 0) - old.get(name, 0)
            if change and name not in _VITALS:
                told.append(f"{name} {change:+g}")
    for name in _FED:
        change = percept.fields.get(name, 0) - before.fields.get(name, 0)
        if change > 0:
            told.append(f"{name} {change:+g}")
    for name, begins, ends in (
        ("sleeping", "fell asleep", "woke up"),
        ("resting", "began to rest", "stopped resting"),
    ):
        now = percept.fields.get(name)
        if now is not None and bool(now) != bool(before.fields.get(name)):
            told.append(begins if now else ends)
    done = before.fields.get("achievements", ())
    told += [f"achieved {n}" for n in percept.fields.get("achievements", ()) if n not in done]
    return told


def _ground(where: LevelMap, known: np.ndarray | None) -> list[str]:
    """Cells that look different from how they were remembered, or were never seen before."""
    now = where.level.terrain
    if known is None or known.shape != now.shape or np.array_equal(known, now):
        return []
    real = now > Terrain.HIDDEN
    seen_before = known > Terrain.HIDDEN
    rock = int(Terrain.SOLID)
    changed = real & seen_before & (known != now) & (known != rock) & (now != rock)
    found = real & ((known == Terrain.UNKNOWN) | (known == rock)) & (now != rock)
    told = []
    for row, column in np.argwhere(changed)[:_MOST_TOLD].tolist():
        was, became = Terrain(int(known[row, column])), Terrain(int(now[row, column]))
        told.append(f"{was.word} became {became.word} {place(column - where.x, row - where.y)}")
    count = int(np.count_nonzero(found))
    if count:
        told.append(f"{count} new cell{'s' if count > 1 else ''} seen")
    return told


def _lying(
    old: Mapping[tuple[int, int], Thing],
    new: Mapping[tuple[int, int], Thing],
    where: LevelMap,
    stood: tuple[str, int, int],
) -> list[str]:
    """Things that came to lie, or no longer lie, on cells where no creature stands or stood."""
    told: list[str] = []
    if old == new:
        return told
    both = (*old.items(), *new.items())
    creatures = {cell for cell, thing in both if thing.kind in (*CREATURES, "pet")}
    for cell in sorted(old.keys() | new.keys()):
        was, now = old.get(cell), new.get(cell)
        if was == now or cell in ((where.x, where.y), stood[1:]):
            continue
        if any(_is_near(cell, one) for one in creatures):
            continue  # creatures pick things up, eat and drop them
        at = place(cell[0] - where.x, cell[1] - where.y)
        if now is not None and now.kind in _LYING and "hallucination" not in now.name:
            told.append(f"{now.name} now {at}")
        elif now is None and was.kind in _LYING and "hallucination" not in was.name:
            told.append(f"{was.name} gone {at}")
    return told[:_MOST_TOLD]


def _is_near(cell: tuple[int, int], creature: tuple[int, int]) -> bool:
    return max(abs(cell[0] - creature[0]), abs(cell[1] - creature[1])) <= _PET_REACH


def _carried(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = before.get("items"), now.get("items")
    if old is None or new is None or old == new:
        return []
    gone, come = dict(old), dict(new)
    told = [f"now {k} - {v}" for k, v in come.items() if gone.get(k) != v]
    told += [f"no more {k} - {v}" for k, v in gone.items() if k not in come]
    return told[:_MOST_TOLD] or ["inventory rearranged"]


def _numbers(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    told = []
    for key, words in _NUMBERS.items():
        old, new = before.get(key), now.get(key)
        if old is not None and new is not None and old != new:
            told.append(f"{words} {new - old:+d}")
    return told


def _asked(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = before.get("question"), now.get("question")
    if old == new or new is None:
        return []
    return [f"asked: {new['text']}"] if new["kind"] else ["question closed"]


def _messages(
    before: Mapping[str, Any], now: Mapping[str, Any], things: Sequence[Thing]
) -> tuple[list[str], list[str]]:
    """Sentences that tell of an effect, and those that do not."""
    message = now.get("message")
    if not isinstance(message, str) or not message.strip():
        return [], []
    if now.get("prompt"):
        return [], []
    names = {t.name for t in things if t.kind in (*CREATURES, "pet")}
    pets = any(t.kind == "pet" for t in things)
    again = message == before.get("message")
    effects, remarks = [], []
    for sentence in _SENTENCE.split(message.strip()):
        if not sentence.strip():
            continue
        vain = again or _VAIN.match(sentence) or _is_anothers_doing(sentence, names, pets)
        (remarks if vain else effects).append(sentence.strip())
    return effects, remarks


def _is_anothers_doing(sentence: str, names: set[str], pets: bool) -> bool:
    """The sentence tells of a creature: "The jackal bites!", "It misses.", "Hachi drops a coin."."""
    head, _, rest = sentence.partition(" ")
    if head in ("It", "Something", "Someone"):
        return True
    if head in ("The", "Your", "A", "An"):
        return any(rest.startswith(name) for name in names)
    # A pet with a name of its own: "Hachi drops", "Slasher bites".
    return pets and head not in _NO_NAMES and _PET_DOES.match(sentence) is not None


def _wounds(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    key = "hp" if "hp" in now else "health"
    old, new = before.get(key), now.get(key)
    if old is None or new is None or new >= old:
        return []
    return [f"{key} {new - old:+g}"]
