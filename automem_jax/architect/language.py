"""The template language in words, for an architect's prompt: taken from the code that implements it."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from typing import Any

from automem_jax.agent import conditions, guards, template
from automem_jax.agent.actions import REPAIRS, repair
from automem_jax.agent.grammar import READ_OPERATIONS, WRITE_OPERATIONS
from automem_jax.agent.guards import GUARDS
from automem_jax.agent.observers import OBSERVERS

# Where each of the template's parts stands.
_PARTS: dict[str, type] = {
    "the template": template.Template,
    "files.<name>": template.FileSpec,
    "files.<name>.items[]": template.ItemSpec,
    "new_files": template.NewFiles,
    "phases.log": template.LogPhase,
    "phases.log.if_no_write": template.IfNoWrite,
    "phases.plan": template.PlanPhase,
    "phases.plan.modes[]": template.ModeSpec,
    "phases.plan.guards[]": template.GuardSpec,
    "slots.<name>": template.SlotSpec,
    "observers.<id>": template.ObserverSpec,
    "observers.<id>.bands[]": template.BandSpec,
    "actions": template.ActionsSpec,
    "limits": template.Limits,
    "overrides[]": template.OverrideSpec,
}
_CHOICES: dict[tuple[type, str], dict[str, Any]] = {
    (template.FileSpec, "kind"): {"enum": list(template.FILE_KINDS)},
    (template.FileSpec, "dedupe"): {"enum": list(template.DEDUPE_RULES)},
    (template.SlotSpec, "builtin"): {"enum": ["", *template.BUILTINS]},
}


def describe_language() -> str:
    """Parts and fields, file kinds, operations, conditions, observers, guards and repairs."""
    sections = [
        ("Parts of a template, their fields with defaults", _parts()),
        ("Kinds of files", ", ".join(template.FILE_KINDS)),
        ("Operations that read", ", ".join(READ_OPERATIONS)),
        ("Operations that write", ", ".join(WRITE_OPERATIONS)),
        ("Conditions", _words(conditions)),
        ("Types of observers; their outputs are paths <id>.<output>", _observers()),
        ("Types of guards", f"{_words(guards)}\nAll types: {', '.join(GUARDS)}"),
        ("Repairs", f"{_words(repair)}\nAll repairs: {', '.join(REPAIRS)}"),
    ]
    return "\n\n".join(f"## {title}\n{text}" for title, text in sections)


def describe_parts() -> list[dict[str, Any]]:
    """Each part of a template: its place, its meaning, and the JSON schema of what stands there."""
    kinds = {cls: place for place, cls in _PARTS.items()}
    parts = []
    for place, cls in _PARTS.items():
        hints = typing.get_type_hints(cls)
        fields = dataclasses.fields(cls)
        schema = {
            "type": "object",
            "properties": {
                f.name: _schema_of(hints[f.name], kinds)
                | _CHOICES.get((cls, f.name), {})
                | ({"default": f.default} if _is_plain(f) else {})
                for f in fields
            },
            "required": [f.name for f in fields if _is_needed(f)],
            "additionalProperties": False,
        }
        parts.append({"part": place, "meaning": _words(cls), "schema": schema})
    told = (("conditions", _words(conditions)), ("observer types", _observers()))
    guards_told = f"{_words(guards)}\nAll types: {', '.join(GUARDS)}"
    told += (("guard types", guards_told), ("action repairs", _words(repair)))
    return parts + [{"part": part, "meaning": text} for part, text in told]


def _schema_of(kind: Any, kinds: dict[type, str]) -> dict[str, Any]:
    """JSON schema of a field; other parts are referred to by their place."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        wanted = next(k for k in inner if k is not type(None))
        return {"anyOf": [_schema_of(wanted, kinds), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(inner[0], kinds)}
    if origin is collections.abc.Mapping:
        return {"type": "object", "additionalProperties": _schema_of(inner[1], kinds)}
    if kind in kinds:
        return {"part": kinds[kind]}
    if dataclasses.is_dataclass(kind):  # phases: holds nothing but its two parts
        hints = typing.get_type_hints(kind)
        return {
            "type": "object",
            "properties": {name: _schema_of(hint, kinds) for name, hint in hints.items()},
        }
    name = {str: "string", int: "integer", float: "number", bool: "boolean"}.get(kind)
    return {"type": name} if name else {"description": "a condition or parameters"}


def _is_plain(field: dataclasses.Field) -> bool:
    return field.default is None or isinstance(field.default, (str, int, bool))


def _is_needed(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _parts() -> str:
    told = []
    for place, cls in _PARTS.items():
        fields = ", ".join(map(_field, dataclasses.fields(cls)))
        told.append(f"{place}: {fields}\n{_indented(_words(cls))}")
    return "\n".join(told)


def _field(field: dataclasses.Field) -> str:
    plain = field.default is None or isinstance(field.default, (str, int, bool, tuple))
    return f"{field.name} = {field.default!r}" if plain else field.name


def _observers() -> str:
    names: dict[type, list[str]] = {}
    for name, cls in OBSERVERS.items():
        names.setdefault(cls, []).append(name)
    return "\n".join(
        f"{' or '.join(several)} (params: {', '.join(cls.PARAMS) or 'none'}; outputs: "
        f"{', '.join(cls.OUTPUTS)})\n{_indented(_words(cls))}"
        for cls, several in names.items()
    )


def _words(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
