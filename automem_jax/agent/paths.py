"""Paths into a percept: `percept.<attribute>` or `percept.<field>`, and on into nested mappings."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from automem_jax.envs.base import Percept

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
            known = ", ".join(map(str, value)) if isinstance(value, Mapping) else "nothing below it"
            raise KeyError(f"{path}: no {part!r} here; there is {known or 'nothing'}")
        value = value[part]
    return value
