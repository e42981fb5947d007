"""The kinds of values that observers and guards take as params: what is wrong with one, and what
paths, conditions and texts it holds. What those lead to is for the validator to check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from automem_jax.agent import conditions
from automem_jax.agent.compass import OFFSETS

# By "type.param" or, failing that, by "param".
_KINDS = {
    "action_window.size": "count",
    "advisor.most": "count",
    "advisor.rules": "rules",
    "delta.path": "path",
    "delta.names": "texts",
    "entities.names": "texts",
    "entities.kinds": "texts",
    "events.path": "percept path",
    "events.all": "texts",
    "facing.needs": "names by action",
    "facing.path": "path",
    "file_health.stale_steps": "count from 0",
    "goal_nav.goals": "texts",
    "goal_nav.avoid": "texts",
    "inventory.path": "percept path",
    "materials.needs": "amounts by action",
    "max_run.limit": "count",
    "obs_diff.paths": "percept paths",
    "obs_diff.clocks": "texts",
    "pose.actions": "directions",
    "prompt_reply.allowed": "texts",
    "refuse.actions": "texts",
    "since.when": "condition",
    "vitals.paths": "paths by name",
    "vitals.low": "number",
    "vitals.critical": "number",
    "moves": "directions",
    "radius": "count",
}

Fault = tuple[str, str, str]  # place below the param, what is wrong, how to mend it
Reference = tuple[str, str, Any]  # place, one of "path" | "percept path" | "condition" | "text", it


def faults(type_name: str, param: str, value: Any) -> list[Fault]:
    """What is wrong with a param's shape; empty for a good one or one of no known kind."""
    kind = _kind(type_name, param)
    return list(_faults(kind, value)) if kind else []


def references(type_name: str, param: str, value: Any) -> list[Reference]:
    """What a (well-formed) param refers to."""
    kind = _kind(type_name, param)
    return list(_references(kind, value)) if kind else []


def _kind(type_name: str, param: str) -> str | None:
    return _KINDS.get(f"{type_name}.{param}", _KINDS.get(param))


def _faults(kind: str, value: Any) -> Iterator[Fault]:
    if kind in ("count", "count from 0"):
        least = 0 if kind.endswith("0") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            yield "", f"{value!r} is no count", f"write a whole number from {least}"
    elif kind == "number":
        if not _is_number(value):
            yield "", f"{value!r} is no number", "write a number, e.g. 3"
    elif kind in ("path", "percept path"):
        if not isinstance(value, str) or not conditions.is_path(value):
            yield "", f"{value!r} is no path", "write one as percept.inventory"
    elif kind in ("texts", "percept paths"):
        if not _is_list(value) or not all(isinstance(v, str) for v in value):
            yield "", f"{value!r} is no list of texts", "write a list of texts"
    elif kind == "rules":
        yield from _rule_faults(value)
    elif kind in ("directions", "paths by name", "amounts by action", "names by action"):
        form = {
            "directions": "{action: compass word}",
            "paths by name": "{name: path}",
            "amounts by action": "{action: {path: least}}",
            "names by action": "{action: [names]}",
        }[kind]
        if not isinstance(value, Mapping):
            yield "", f"{value!r} is no mapping", f"write {form}"
            return
        for name, entry in value.items():
            yield from _entry_faults(kind, f".{name}", entry, form)


def _entry_faults(kind: str, place: str, entry: Any, form: str) -> Iterator[Fault]:
    if kind == "directions" and entry not in OFFSETS:
        yield place, f"{entry!r} is no compass word", f"use one of {', '.join(OFFSETS)}"
    elif kind == "paths by name" and not (isinstance(entry, str) and conditions.is_path(entry)):
        yield place, f"{entry!r} is no path", f"write {form}"
    elif kind == "names by action":
        if not _is_list(entry) or not all(isinstance(v, str) for v in entry):
            yield place, f"{entry!r} is no list of names", f"write {form}"
    elif kind == "amounts by action":
        if not isinstance(entry, Mapping):
            yield place, f"{entry!r} is no mapping", f"write {form}"
            return
        for path, least in entry.items():
            if not conditions.is_path(path):
                yield place, f"{path!r} is no path", f"write {form}"
            elif not _is_number(least):
                yield f"{place}.{path}", f"{least!r} is no number", f"write {form}"


def _rule_faults(value: Any) -> Iterator[Fault]:
    if not _is_list(value):
        yield "", f"{value!r} is no list of rules", "write a list of {when: condition, say: text}"
        return
    for i, rule in enumerate(value):
        if not isinstance(rule, Mapping) or set(rule) != {"when", "say"}:
            yield f"[{i}]", f"{rule!r} is no rule", "write {when: condition, say: text}"
        elif not isinstance(rule["say"], str):
            yield f"[{i}].say", f"{rule['say']!r} is no text", "write what to tell the agent"


def _references(kind: str, value: Any) -> Iterator[Reference]:
    if kind in ("path", "percept path", "condition"):
        yield "", kind, value
    elif kind == "percept paths":
        yield from (("", "percept path", path) for path in value)
    elif kind == "paths by name":
        yield from ((f".{name}", "path", path) for name, path in value.items())
    elif kind == "amounts by action":
        for action, needs in value.items():
            yield from ((f".{action}", "path", path) for path in needs)
    elif kind == "rules":
        for i, rule in enumerate(value):
            yield f"[{i}].when", "condition", rule["when"]
            yield f"[{i}].say", "text", rule["say"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
