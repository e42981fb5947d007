"""Merging two templates' changes field by field against their common ancestor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.agent.template import Template, to_data

_GONE = object()


def merge_templates(ancestor: Template, first: Template, second: Template) -> dict[str, Any]:
    """Template data with what each side changed. Where both changed one value, `first` has it.

    Mappings are merged key by key, lists of names by their insertions and removals, everything else as
    a whole. The result may be invalid (a slot one side uses may be gone on the other): check it.
    """
    return _merge(to_data(ancestor), to_data(first), to_data(second))


def _merge(base: Any, first: Any, second: Any) -> Any:
    if _same(first, second) or _same(second, base):
        return first
    if _same(first, base):
        return second
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        old = base if isinstance(base, Mapping) else {}
        merged = {}
        for key in dict.fromkeys([*first, *second]):
            value = _merge(*(side.get(key, _GONE) for side in (old, first, second)))
            if value is not _GONE:
                merged[key] = value
        return merged
    if _names(first) and _names(second) and _names(base):
        return merge_names(base, first, second)
    return first


def merge_names(base: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[str]:
    """`first` without what `second` removed, and with what it added, each after its neighbour there."""
    merged = [name for name in first if name in second or name not in base]
    for position, name in enumerate(second):
        if name in base or name in merged:
            continue
        before = [other for other in second[:position] if other in merged]
        after = [other for other in second[position + 1 :] if other in merged]
        if before:
            merged.insert(merged.index(before[-1]) + 1, name)
        else:
            merged.insert(merged.index(after[0]) if after else len(merged), name)
    return merged


def _names(value: Any) -> bool:
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(v, str) for v in value) and len(set(value)) == len(value)


def _same(a: Any, b: Any) -> bool:
    if a is _GONE or b is _GONE:
        return a is b
    return a == b
