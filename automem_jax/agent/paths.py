"""Paths into a percept: `percept.<attribute>` or `percept.<field>`, and on into nested mappings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from automem_jax.envs.base import Percept


class NoValue(KeyError):
    """A path that leads nowhere. Most are caught unread: the message is made when it is asked for."""

    def __init__(self, path: str, part: str, value: Any) -> None:
        super().__init__(path)
        self._path, self._part, self._value = path, part, value

    def __str__(self) -> str:
        mapping = isinstance(self._value, Mapping)
        known = ", ".join(map(str, self._value)) if mapping else "nothing below it"
        return f"{self._path}: no {self._part!r} here; there is {known or 'nothing'}"


class Outputs(Mapping):
    """An observer's outputs, some of which are worked out when they are first looked at.

    Args:
      ready: values by name.
      later: functions that give the others, by name.
    """

    def __init__(self, ready: dict[str, Any], later: Mapping[str, Callable[[], Any]]) -> None:
        self._ready, self._later = ready, later

    def __getitem__(self, name: str) -> Any:
        if name not in self._ready:
            self._ready[name] = self._later[name]()
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._ready, *self._later)))

    def __len__(self) -> int:
        return len(self._ready.keys() | self._later.keys())


_PERCEPT_ATTRIBUTES = tuple(name for name in Percept.__dataclass_fields__ if name != "fields")


def percept_value(percept: Percept, path: str) -> Any:
    """The value at `percept.…`.

    Raises:
      KeyError: the percept has no such attribute or field; the message names what it has.
    """
    attribute, parts = _route(path)
    if attribute:
        return getattr(percept, attribute)
    value: Any = percept.fields
    for part in parts:
        if not (type(value) is dict or isinstance(value, Mapping)) or part not in value:
            return descend(percept.fields, ".".join(parts), path)
        value = value[part]
    return value


@functools.lru_cache(maxsize=1 << 14)
def _route(path: str) -> tuple[str, tuple[str, ...]]:
    """A path's attribute of Percept, or else the keys below its fields."""
    name = path.removeprefix("percept.")
    if name in _PERCEPT_ATTRIBUTES:
        return name, ()
    return "", tuple(name.removeprefix("fields.").split("."))


def descend(value: Any, rest: str, path: str) -> Any:
    """What stands at the dotted `rest` below a value; `path` names it in errors.

    Raises:
      KeyError: a part is missing; the message names what there is.
    """
    for part in rest.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise NoValue(path, part, value)
        value = value[part]
    return value
