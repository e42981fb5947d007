"""Observers of the player's state: vitals, statistics, belongings, achievements, and whether the
game waits for an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from automem_jax.agent.compass import OFFSETS
from automem_jax.agent.conditions import Resolve, as_text
from automem_jax.agent.paths import percept_value
from automem_jax.config import ConfigError
from automem_jax.envs.base import Percept

NEVER = -1
_NORMAL_HUNGER = "Not Hungry"  # not worth a word


class Delta:
    """What a number, or the numbers of a mapping, gained and lost at the last percept.

    Params: path (of a number or a mapping of numbers); names (only these keys; default all).
    Outputs: gained, lost (texts, "wood +1", "food -1"); since_gain, since_loss (percepts since one
    last was, 0 now, -1 never); text (both).
    """

    OUTPUTS = ("gained", "lost", "since_gain", "since_loss", "text")
    PARAMS = ("path", "names")
    SCOPE = True

    def __init__(self, path: str, names: Sequence[str] = (), *, resolve: Resolve) -> None:
        self._path = path
        self._names = frozenset(names)
        self._resolve = resolve
        self._last: dict[str, float] | None = None
        self._gained: tuple[str, ...] = ()
        self._lost: tuple[str, ...] = ()
        self._since_gain = self._since_loss = NEVER

    def update(self, percept: Percept) -> None:
        now, before = self._numbers(), self._last
        self._gained = self._lost = ()
        if before is not None and now != before:
            names = dict.fromkeys((*before, *now))
            changes = {name: now.get(name, 0) - before.get(name, 0) for name in names}
            self._gained = tuple(f"{name} +{by:g}" for name, by in changes.items() if by > 0)
            self._lost = tuple(f"{name} {by:g}" for name, by in changes.items() if by < 0)
        self._since_gain = _since(self._since_gain, bool(self._gained))
        self._since_loss = _since(self._since_loss, bool(self._lost))
        self._last = now

    def outputs(self) -> dict[str, Any]:
        return {
            "gained": self._gained,
            "lost": self._lost,
            "since_gain": self._since_gain,
            "since_loss": self._since_loss,
            "text": ", ".join((*self._gained, *self._lost)),
        }

    def _numbers(self) -> dict[str, float]:
        value = self._resolve(self._path)
        if isinstance(value, Mapping):
            wanted = self._names
            return {
                name: number
                for name, number in value.items()
                if isinstance(number, (int, float)) and (not wanted or name in wanted)
            }
        if value is None:
            return {}
        try:
            return {self._path.rpartition(".")[2]: float(value)}
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"delta: {self._path} holds {value!r}; name a number or a mapping of numbers"
            ) from error


class Vitals:
    """Which of a few numbers are low.

    Params: paths ({name: path}); low, critical (a number at most this high is it). Outputs: low
    (names, the lowest first; the critical ones are among them), critical, lowest (the name of the
    lowest number), text ("food 2 (critical), drink 4 (low)"; empty when nothing is low). A path
    that holds no number (yet) is left out.
    """

    OUTPUTS = ("low", "critical", "lowest", "text")
    PARAMS = ("paths", "low", "critical")
    SCOPE = True

    def __init__(
        self,
        paths: Mapping[str, str],
        low: float = 4,
        critical: float = 2,
        *,
        resolve: Resolve,
    ) -> None:
        self._paths = tuple(paths.items())
        self._low, self._critical = max(low, critical), critical
        self._resolve = resolve
        self._ordered: list[tuple[float, str]] = []

    def update(self, percept: Percept) -> None:
        found = []
        for name, path in self._paths:
            try:
                value = self._resolve(path)
            except KeyError:
                continue
            if isinstance(value, (int, float)):
                found.append((value, name))
        self._ordered = sorted(found, key=lambda entry: entry[0])

    def outputs(self) -> dict[str, Any]:
        low = [(value, name) for value, name in self._ordered if value <= self._low]
        told = (
            f"{name} {value:g} ({'critical' if value <= self._critical else 'low'})"
            for value, name in low
        )
        return {
            "low": tuple(name for _, name in low),
            "critical": tuple(name for value, name in low if value <= self._critical),
            "lowest": self._ordered[0][1] if self._ordered else "",
            "text": ", ".join(told),
        }


class GamePrompt:
    """Whether the game waits for an answer instead of a command.

    Outputs: waiting; kind ("": a command, "choice": one key, "text": a line, "more": a page is to
    be clicked away); question (its words); options (answers it takes, where it says so). Never
    waiting in games that ask nothing.
    """

    OUTPUTS = ("waiting", "kind", "question", "options")
    PARAMS = ()

    def __init__(self) -> None:
        self._fields: Mapping[str, Any] = {}

    def update(self, percept: Percept) -> None:
        self._fields = percept.fields

    def outputs(self) -> dict[str, Any]:
        asked = self._fields.get("question") or {}
        kind = asked.get("kind") or self._fields.get("prompt") or ""
        options = tuple(asked.get("options", ()))
        if kind == "choice" and not options and "direction" in asked.get("text", ""):
            options = tuple(OFFSETS)
        return {
            "waiting": bool(kind),
            "kind": kind,
            "question": asked.get("text", "") if kind else "",
            "options": options if kind else (),
        }


class Status:
    """The player's statistics, as far as the game has them: else 0, "" or ().

    Outputs: level (dungeon level), hp, max_hp, hp_share (0 to 1), hunger (a word), conditions
    (words), experience_level, experience_points, gold, turn, ac, text (one line).
    """

    OUTPUTS = ("level", "hp", "max_hp", "hp_share", "hunger", "conditions") + (
        "experience_level",
        "experience_points",
        "gold",
        "turn",
        "ac",
        "text",
    )
    PARAMS = ()
    _MAX_HEALTH = 9  # of games that tell health and no maximum

    def __init__(self) -> None:
        self._fields: Mapping[str, Any] = {}
        self._step = 0

    def update(self, percept: Percept) -> None:
        self._fields = percept.fields
        self._step = percept.step

    def outputs(self) -> dict[str, Any]:
        fields = self._fields
        hp = fields.get("hp", fields.get("health", 0))
        limits = fields.get("limits")
        most = limits.get("health", 0) if isinstance(limits, Mapping) else 0
        max_hp = fields.get("max_hp", most or (self._MAX_HEALTH if "health" in fields else 0))
        told = {
            "level": fields.get("dlvl", fields.get("floor", 0)),
            "hp": hp,
            "max_hp": max_hp,
            "hp_share": hp / max_hp if max_hp else 0.0,
            "hunger": fields.get("hunger_word", ""),
            "conditions": tuple(fields.get("conditions", ())),
            "experience_level": fields.get("experience_level", 0),
            "experience_points": fields.get("experience_points", fields.get("experience", 0)),
            "gold": fields.get("gold", 0),
            "turn": fields.get("turn", self._step),
            "ac": fields.get("ac", 0),
        }
        return told | {"text": self._line(told)}

    def _line(self, told: Mapping[str, Any]) -> str:
        fields = self._fields
        words = [f"level {told['level']}"] if "dlvl" in fields or "floor" in fields else []
        if told["max_hp"]:
            words.append(f"HP {told['hp']:g}/{told['max_hp']:g}")
        if told["hunger"] not in ("", _NORMAL_HUNGER):
            words.append(str(told["hunger"]))
        words += told["conditions"]
        if "experience_level" in fields:
            words.append(f"experience {told['experience_level']}/{told['experience_points']}")
        words += [f"{name} {told[name]}" for name in ("gold", "ac") if name in fields]
        return ", ".join((*words, f"turn {told['turn']}"))


class Inventory:
    """What is carried.

    Param: path (a percept path: name -> number, or a list of (letter, text)); by default the
    percept's items, else its inventory less the vitals that it holds too. Outputs: items (name ->
    number, those not carried as 0; or letter -> text); count (of kinds carried); new, lost (names
    or texts that were not carried at the percept before, or no longer are); text (one line).
    """

    OUTPUTS = ("items", "count", "new", "lost", "text")
    PARAMS = ("path",)
    MAPPINGS = ("items",)

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._raw: Any = None
        self._items: dict[str, Any] = {}
        self._new: tuple[str, ...] = ()
        self._lost: tuple[str, ...] = ()
        self._first = True

    def update(self, percept: Percept) -> None:
        raw = self._read(percept)
        self._new = self._lost = ()
        if not self._first and (raw is self._raw or raw == self._raw):
            return
        before, self._items = self._items, self._parse(raw, percept)
        if not self._first:
            self._new = _apart(self._items, before)
            self._lost = _apart(before, self._items)
        self._raw, self._first = raw, False

    def outputs(self) -> dict[str, Any]:
        carried = [name for name, value in self._items.items() if value]
        told = (
            f"{name}: {self._items[name]}"
            if isinstance(self._items[name], str)
            else f"{name} {self._items[name]:g}"
            for name in carried
        )
        return {
            "items": self._items,
            "count": len(carried),
            "new": self._new,
            "lost": self._lost,
            "text": ", ".join(told),
        }

    def _read(self, percept: Percept) -> Any:
        if self._path:
            return percept_value(percept, self._path)
        fields = percept.fields
        return fields["items"] if "items" in fields else fields.get("inventory", ())

    def _parse(self, raw: Any, percept: Percept) -> dict[str, Any]:
        if isinstance(raw, Mapping):
            own = percept.fields if not self._path else ()
            return {
                str(name): value
                for name, value in raw.items()
                if isinstance(value, (int, float, str)) and name not in own
            }
        try:
            if isinstance(raw, str):
                pairs = [line.partition(": ")[::2] for line in raw.splitlines()]
            else:
                pairs = [(str(letter), str(text)) for letter, text in raw or ()]
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"inventory: {self._path or 'percept.items'} holds {raw!r}; name a path that holds "
                "name -> number or (letter, text) pairs"
            ) from error
        return dict(pairs)


class Events:
    """What has been achieved. Params: path (a percept path holding names, or names -> reached or
    not); all (every name there is). Outputs: done (in order of appearance), new (since the last
    percept), remaining, text (how many are done, the new ones, and what remains)."""

    OUTPUTS = ("done", "new", "remaining", "text")
    PARAMS = ("path", "all")

    def __init__(self, path: str, all: Sequence[str] = ()) -> None:
        self._path = path
        self._all = tuple(all)
        self._done: dict[str, None] = {}
        self._new: tuple[str, ...] = ()

    def update(self, percept: Percept) -> None:
        value = percept_value(percept, self._path)
        if value is None:
            value = ()
        if not isinstance(value, Iterable) or isinstance(value, str):
            raise ConfigError(
                f"events: {self._path} holds {value!r}; name a path that holds names, or names -> "
                "reached or not"
            )
        if isinstance(value, Mapping):
            self._all = self._all or tuple(value)
            value = [name for name, reached in value.items() if reached]
        self._new = tuple(str(name) for name in value if str(name) not in self._done)
        self._done.update(dict.fromkeys(self._new))

    def outputs(self) -> dict[str, Any]:
        remaining = tuple(name for name in self._all if name not in self._done)
        total = f" of {len(self._all)}" if self._all else ""
        words = [f"{len(self._done)}{total} done"]
        if self._new:
            words.append(f"new: {as_text(self._new)}")
        if remaining:
            words.append(f"remaining: {as_text(remaining)}")
        return {
            "done": tuple(self._done),
            "new": self._new,
            "remaining": remaining,
            "text": "; ".join(words),
        }


def _since(before: int, now: bool) -> int:
    return 0 if now else before + 1 if before != NEVER else NEVER


def _apart(items: Mapping[str, Any], others: Mapping[str, Any]) -> tuple[str, ...]:
    """What is carried among the items and not among the others; texts stand for themselves."""
    return tuple(
        value if isinstance(value, str) else name
        for name, value in items.items()
        if value and not others.get(name)
    )
