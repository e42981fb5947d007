"""The template language in words, for an architect's prompt: taken from the code that implements it."""

from __future__ import annotations

import dataclasses
import inspect
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
