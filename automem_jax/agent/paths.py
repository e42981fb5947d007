"""Paths into a percept: `percept.<attribute>` or `percept.<field>`, and on into nested mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automem_jax.envs.base import Percept

_PERCEPT_ATTRIBUTES = tuple(name for name in Percept.__dataclass_fields__ if name != "fields")


def percept_value(percept: Percept, path: str) -> Any:
    """The value at `percept.…`.

    Raises:
      KeyError: the percept has no such attribute or field; the message names what it has.
    """
    name = path.removeprefix("percept.")
    if name in _PERCEPT_ATTRIBUTES:
        return getattr(percept, name)
    return descend(percept.fields, name.removeprefix("fields."), path)


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
