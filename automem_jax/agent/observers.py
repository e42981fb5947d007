"""Observers: small programs of ours that a template configures, from percepts to paths.

An observer sees every percept in order and offers values at `<id>.<output>`, for slots, conditions
and `{path}`s. Its bands, if any, offer one text at `<id>.text`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from automem_jax.agent.conditions import holds, substitute
from automem_jax.agent.effects import ObsDiff
from automem_jax.agent.paths import descend, percept_value
from automem_jax.agent.template import ObserverSpec
from automem_jax.config import ConfigError
from automem_jax.envs.base import Percept


class Observer(Protocol):
    """One observer's state within an episode."""

    def update(self, percept: Percept) -> None:
        """Takes the next percept; percept.action is what led to it."""

    def outputs(self) -> dict[str, Any]:
        """Values by output name, as of the last percept."""


class ActionWindow:
    """The last actions. Param: size. Outputs: recent (oldest first); repeats (how often the last
    action was taken in a row); reversals (A B A patterns in the window); unique (distinct actions)."""

    OUTPUTS = ("recent", "repeats", "reversals", "unique")
    PARAMS = ("size",)

    def __init__(self, size: int = 16) -> None:
        self._recent: collections.deque[str] = collections.deque(maxlen=size)
        self._repeats = 0

    def update(self, percept: Percept) -> None:
        if percept.action is None:
            return
        same = bool(self._recent) and self._recent[-1] == percept.action
        self._repeats = self._repeats + 1 if same else 1
        self._recent.append(percept.action)

    def outputs(self) -> dict[str, Any]:
        recent = tuple(self._recent)
        triples = zip(recent, recent[1:], recent[2:], strict=False)
        return {
            "recent": recent,
            "repeats": self._repeats,
            "reversals": sum(1 for a, b, c in triples if a == c != b),
            "unique": len(set(recent)),
        }


class Events:
    """What has been achieved. Params: path (a percept path holding names, or names -> reached or
    not); all (every name there is). Outputs: done (in order of appearance), new (since the last
    percept), remaining."""

    OUTPUTS = ("done", "new", "remaining")
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
        return {"done": tuple(self._done), "new": self._new, "remaining": remaining}


OBSERVERS: dict[str, type] = {"obs_diff": ObsDiff, "action_window": ActionWindow, "events": Events}


def percept_paths(spec: ObserverSpec) -> list[Any]:
    """Percept paths that an observer reads, as its params give them."""
    paths = spec.params.get("paths", ())
    one = [spec.params["path"]] if "path" in spec.params else []
    return [*one, *(paths if isinstance(paths, (list, tuple)) else ())]


class Scope:
    """Resolves the paths of a template: `percept.*` and `<observer>.*`.

    `percept.name` is an attribute of Percept or, failing that, one of its fields, and goes on into
    nested mappings.
    """

    def __init__(self, specs: Mapping[str, ObserverSpec]) -> None:
        self._specs = dict(specs)
        self._observers = {
            name: OBSERVERS[spec.type](**spec.params) for name, spec in self._specs.items()
        }
        self._outputs: dict[str, dict[str, Any]] = {}
        self._percept: Percept | None = None

    def update(self, percept: Percept) -> None:
        """Takes the next percept; bands see this percept's outputs of all observers."""
        self._percept = percept
        for name, observer in self._observers.items():
            observer.update(percept)
            self._outputs[name] = observer.outputs()
        for name, spec in self._specs.items():
            if spec.bands:
                texts = (b.text for b in spec.bands if holds(b.when, self.resolve))
                self._outputs[name]["text"] = substitute(next(texts, ""), self.resolve)

    def resolve(self, path: str) -> Any:
        """The value at a path.

        Raises:
          KeyError: there is none; the message names what there is.
        """
        root, _, rest = path.partition(".")
        if root == "percept":
            return percept_value(self._percept, path)
        if root not in self._outputs:
            raise KeyError(f"no observer {root!r}; observers: {', '.join(self._outputs) or 'none'}")
        return descend(self._outputs[root], rest, path)
