"""Observers: small programs of ours that a template configures, from percepts to paths.

An observer sees every percept in order and offers values at `<id>.<output>`, for slots, conditions
and `{path}`s. Its bands, if any, offer one text at `<id>.text`, in place of its own.

A class says what it takes and gives: PARAMS and OUTPUTS (names); MAPPINGS (outputs whose keys are
paths too); SCOPE (it is given `resolve` and looks at other observers); MAP (it is given `where`, the
map of the level that all of them share); FILES (it is shown the file index by `observe_files`).
Docstrings tell the meaning of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from automem_jax.agent import conditions, params
from automem_jax.agent.conditions import holds, substitute
from automem_jax.agent.effects import ObsDiff
from automem_jax.agent.entities import Entities
from automem_jax.agent.game_status import Delta, Events, GamePrompt, Inventory, Status, Vitals
from automem_jax.agent.level_map import LevelMap
from automem_jax.agent.navigation import Explore, GoalNav, Pose
from automem_jax.agent.paths import descend, percept_value
from automem_jax.agent.reminders import ActionWindow, Advisor, FileHealth, FileIndex, Since
from automem_jax.agent.surroundings import GlyphMap
from automem_jax.agent.template import GuardSpec, ObserverSpec
from automem_jax.envs.base import Percept


class Observer(Protocol):
    """One observer's state within an episode."""

    def update(self, percept: Percept) -> None:
        """Takes the next percept; percept.action is what led to it."""

    def outputs(self) -> Mapping[str, Any]:
        """Values by output name, as of the last percept. Changes nothing; asked at most once a
        percept, and only if some path leads here."""


OBSERVERS: dict[str, type] = {
    "obs_diff": ObsDiff,
    "action_window": ActionWindow,
    "delta": Delta,
    "since": Since,
    "vitals": Vitals,
    "entities": Entities,
    "glyph_map": GlyphMap,
    "ascii_map": GlyphMap,
    "pose": Pose,
    "explore": Explore,
    "goal_nav": GoalNav,
    "game_prompt": GamePrompt,
    "status": Status,
    "inventory": Inventory,
    "events": Events,
    "advisor": Advisor,
    "file_health": FileHealth,
}
_MAPPINGS = ("adjacent", "around")  # outputs by direction, of any class
_NOT_ASKED = object()


def outputs_of(spec: ObserverSpec) -> tuple[str, ...]:
    """The outputs of an observer of a known type."""
    outputs = tuple(OBSERVERS[spec.type].OUTPUTS)
    return (*outputs, "text") if spec.bands and "text" not in outputs else outputs


def has_output(spec: ObserverSpec, path: str) -> bool:
    """Whether `path` (below the observer's id) is an output, or leads into one that is a mapping."""
    name, _, deeper = path.partition(".")
    mappings = (*getattr(OBSERVERS[spec.type], "MAPPINGS", ()), *_MAPPINGS)
    return name in outputs_of(spec) and (not deeper or name in mappings)


def percept_paths(spec: ObserverSpec | GuardSpec) -> list[Any]:
    """Percept paths that an observer or a guard reads, as its params give them; other paths may be
    among them where its type takes any."""
    found = []
    for name, value in spec.params.items():
        if not params.faults(spec.type, name, value):
            for _, kind, path in params.references(spec.type, name, value):
                if kind in ("percept path", "path"):
                    found.append(path)
    return found


def update_order(specs: Mapping[str, ObserverSpec]) -> tuple[list[str], list[list[str]]]:
    """Observers in an order in which each comes after those that it looks at, and the rings in
    which some look at each other (ids, or "id.text" for an observer's bands)."""
    order: list[str] = []
    rings: list[list[str]] = []
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> None:
        if node in trail:
            rings.append([*trail[trail.index(node) :], node])
        elif node not in done:
            for other in _looks_at(node, specs):
                visit(other, [*trail, node])
            done.add(node)
            if node in specs:
                order.append(node)

    for name in specs:
        visit(name, [])
        if specs[name].bands:
            visit(f"{name}.text", [])
    return order, rings


def _looks_at(node: str, specs: Mapping[str, ObserverSpec]) -> Iterator[str]:
    """What an observer, or the bands of one ("id.text"), must come after."""
    name, _, text = node.partition(".")
    spec = specs[name]
    seen: list[str] = []
    if text:
        for band in spec.bands:
            seen += _paths_in(band.when, band.text)
        yield name
    elif getattr(OBSERVERS.get(spec.type), "SCOPE", False):
        for param, value in spec.params.items():
            if params.faults(spec.type, param, value):
                continue
            for _, kind, held in params.references(spec.type, param, value):
                if kind == "condition":
                    seen += _paths_in(held, "")
                elif kind == "text":
                    seen += _paths_in(True, held)
                else:
                    seen.append(held)
    for path in seen:
        root, _, rest = path.partition(".")
        if root in specs:
            yield path if rest == "text" and specs[root].bands else root


def _paths_in(condition: Any, text: str) -> list[str]:
    wrong = any(True for _ in conditions.problems(condition))
    return [*([] if wrong else conditions.paths(condition)), *conditions.placeholders(text)]


class Scope:
    """Resolves the paths of a template: `percept.*` and `<observer>.*`.

    `percept.name` is an attribute of Percept or, failing that, one of its fields, and goes on into
    nested mappings. Observers take every percept at once; what they offer, and their bands, is
    worked out when a path leads to it, once a percept.

    Attributes:
      where: the level map that observers share; None where none of them looks at it.
    """

    def __init__(self, specs: Mapping[str, ObserverSpec]) -> None:
        self._specs = dict(specs)
        self._observers: dict[str, Any] = {}
        classes = [OBSERVERS[spec.type] for spec in self._specs.values()]
        self.where = LevelMap() if any(getattr(cls, "MAP", False) for cls in classes) else None
        for name in update_order(self._specs)[0]:
            spec = self._specs[name]
            cls = OBSERVERS[spec.type]
            extra: dict[str, Any] = {}
            if getattr(cls, "SCOPE", False):
                extra["resolve"] = self.resolve
            if getattr(cls, "MAP", False):
                extra["where"] = self.where
            self._observers[name] = cls(**spec.params, **extra)
        self._updates = tuple(observer.update for observer in self._observers.values())
        self._watchers = tuple(o for o in self._observers.values() if getattr(o, "FILES", False))
        self._files_tell = tuple(
            name
            for name, observer in self._observers.items()
            if getattr(observer, "FILES", False) or getattr(observer, "SCOPE", False)
        )
        self._banded = {name: spec.bands for name, spec in self._specs.items() if spec.bands}
        self._outputs: dict[str, Mapping[str, Any]] = {}
        self._texts: dict[str, str | None] = {}
        self._values: dict[str, Any] = {}  # by path, as long as nothing changes
        self._percept: Percept | None = None

    def update(self, percept: Percept) -> None:
        """Takes the next percept."""
        self._percept = percept
        self._outputs.clear()
        self._texts.clear()
        self._values.clear()
        if self.where is not None:
            self.where.update(percept)
        for update in self._updates:
            update(percept)

    def update_files(self, index: FileIndex, written: Iterable[str] = ()) -> None:
        """Takes the files as they are now.

        Args:
          index: MemoryStore.index().
          written: names of files that were written to since the last call; a file whose number of
            lines changed counts without being named.
        """
        if self._watchers:
            for observer in self._watchers:
                observer.observe_files(index, written)
            for name in self._files_tell:  # what others offer follows from percepts alone
                self._outputs.pop(name, None)
            self._texts.clear()
            self._values.clear()

    def resolve(self, path: str) -> Any:
        """The value at a path.

        Raises:
          KeyError: there is none; the message names what there is.
        """
        value = self._values.get(path, _NOT_ASKED)
        if value is _NOT_ASKED:
            value = self._values[path] = self._find(path)
        return value

    def _find(self, path: str) -> Any:
        root, _, rest = path.partition(".")
        if root == "percept":
            return percept_value(self._percept, path)
        outputs = self._outputs.get(root)
        if outputs is None:
            outputs = self._ask(root)
        if rest == "text" and root in self._banded:
            return self._band(root)
        if rest in outputs:
            return outputs[rest]
        return descend(outputs, rest, path)

    def _ask(self, name: str) -> Mapping[str, Any]:
        if name not in self._observers or self._percept is None:
            raise KeyError(
                f"no observer {name!r}; observers: {', '.join(self._observers) or 'none'}"
            )
        outputs = self._outputs[name] = self._observers[name].outputs()
        return outputs

    def _band(self, name: str) -> str:
        if name in self._texts:
            text = self._texts[name]
            if text is None:
                raise KeyError(f"{name}.text looks at itself")
            return text
        self._texts[name] = None
        texts = (band.text for band in self._banded[name] if holds(band.when, self.resolve))
        text = self._texts[name] = substitute(next(texts, ""), self.resolve)
        return text
