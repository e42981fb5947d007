"""What is wrong with a template, and the checks that several of its parts need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from automem_jax.agent import conditions, params
from automem_jax.agent.observers import OBSERVERS, has_output, outputs_of
from automem_jax.agent.template import Template
from automem_jax.config import unknown_key


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and how to mend it."""

    place: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.remedy}"


def check_values(
    template: Template, type_name: str, given: Mapping[str, Any], place: str
) -> Iterator[Problem]:
    """Shapes of params, and where the paths in them lead."""
    for name, value in given.items():
        wrong = params.faults(type_name, name, value)
        for inner, message, remedy in wrong:
            yield Problem(f"{place}.{name}{inner}", message, remedy)
        for inner, kind, held in () if wrong else params.references(type_name, name, value):
            at = f"{place}.{name}{inner}"
            if kind == "condition":
                yield from check_condition(template, held, at)
            elif kind == "text":
                for path in conditions.placeholders(held):
                    yield from check_path(template, path, at)
            elif kind == "percept path" and not held.startswith("percept."):
                yield Problem(at, f"{held!r} is no percept path", "start it with percept.")
            else:
                yield from check_path(template, held, at)


def check_choice(place: str, value: str, known: Iterable[str]) -> Iterator[Problem]:
    """A value must be one of those known."""
    if value not in known:
        yield Problem(place, f"unknown value {value!r}", unknown_key(value, known))


def check_name(place: str, name: str, names: Iterable[str], where: str) -> Iterator[Problem]:
    """A name must stand in a part (`where`) of the template."""
    if name not in names:
        yield Problem(place, f"no {name!r} in {where}", unknown_key(name, names))


def check_params(
    place: str, params: Any, known: Iterable[str], needed: Iterable[str]
) -> Iterator[Problem]:
    """Params must be known, and those needed there."""
    for name in params:
        yield from check_name(place, name, known, "its params")
    for name in needed:
        if name not in params:
            yield Problem(place, f"lacks {name!r}", "add it")


def check_condition(template: Template, condition: Any, place: str) -> Iterator[Problem]:
    """A condition must have one of the forms, and its paths must lead somewhere."""
    wrong = list(conditions.problems(condition))
    for message in wrong:
        yield Problem(place, message, "see agent/conditions.py for the forms")
    if not wrong:
        for path in conditions.paths(condition):
            yield from check_path(template, path, place)


def check_path(template: Template, path: str, place: str) -> Iterator[Problem]:
    """A path must lead to the percept or to an output of an observer."""
    root, _, rest = path.partition(".")
    if root == "percept" and rest:
        return
    spec = template.observers.get(root)
    if spec is None:
        known = ["percept", *template.observers]
        yield Problem(place, f"path {path!r} leads nowhere", unknown_key(root, known))
        return
    if spec.type in OBSERVERS and not has_output(spec, rest):
        outputs = outputs_of(spec)
        yield Problem(place, f"{root!r} has no {rest!r}", unknown_key(rest, outputs))
