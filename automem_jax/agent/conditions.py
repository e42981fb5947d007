"""Conditions as data, and the paths they look at.

A condition is one of
  True / False
  "inv.wood >= 3"                 path, operator, literal (number, true/false/none, or text)
  "map.hazards has north"         a list or mapping holds the literal; a text, case aside, contains it
  "plan.asks"                     a path alone: is it true (non-empty, non-zero)?
  {"all": [...]}, {"any": [...]}, {"not": cond}
  {"compare": [path, operator, value]}
  {"in": [path, [values]]}
Nothing is evaluated as code. A path that does not resolve makes its comparison false.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

Resolve = Callable[[str], Any]  # path -> value; raises KeyError where there is none


def _has(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return str(wanted).casefold() in value.casefold()
    many = isinstance(value, (tuple, list)) or isinstance(value, Collection)
    return many and (wanted in value or str(wanted) in value)


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "has": _has,
}
PATH = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*"
_PATH = re.compile(PATH)
_TEXT_FORM = re.compile(rf"\s*({PATH})\s*(>=|<=|==|!=|>|<|\bhas\b)\s*(.+?)\s*")
_PLACEHOLDER = re.compile(r"\{(" + PATH + r")\}")
_CONSTANTS = {"true": True, "false": False, "none": None}


def holds(condition: Any, resolve: Resolve) -> bool:
    """Whether a (valid) condition holds."""
    if isinstance(condition, str):
        path, symbol, wanted = _parsed(condition)
        return _compare(path, symbol, wanted, resolve) if symbol else _truth(path, resolve)
    if isinstance(condition, bool):
        return condition
    ((kind, body),) = condition.items()
    if kind == "all":
        return all(holds(c, resolve) for c in body)
    if kind == "any":
        return any(holds(c, resolve) for c in body)
    if kind == "not":
        return not holds(body, resolve)
    if kind == "compare":
        return _compare(*body, resolve)
    path, values = body
    try:
        return _plain(resolve(path)) in values
    except (KeyError, TypeError):
        return False


def problems(condition: Any) -> Iterator[str]:
    """What is wrong with a condition's form; nothing for a valid one."""
    if isinstance(condition, bool):
        return
    if isinstance(condition, str):
        if not (_TEXT_FORM.fullmatch(condition) or _PATH.fullmatch(condition.strip())):
            yield f"{condition!r} is no condition; write 'path >= value' or a path"
        return
    if not isinstance(condition, Mapping) or len(condition) != 1:
        yield f"{condition!r} is no condition; write text or one of all, any, not, compare, in"
        return
    ((kind, body),) = condition.items()
    if kind in ("all", "any"):
        if isinstance(body, (str, Mapping)) or not hasattr(body, "__iter__"):
            yield f"{kind!r} needs a list of conditions"
            return
        for part in body:
            yield from problems(part)
    elif kind == "not":
        yield from problems(body)
    elif kind == "compare":
        if not _is_list(body, 3) or body[1] not in list(_OPERATORS) or not is_path(body[0]):
            yield f"'compare' needs [path, operator, value] with one of {' '.join(_OPERATORS)}"
    elif kind == "in":
        if not _is_list(body, 2) or not is_path(body[0]) or not _is_list(body[1]):
            yield "'in' needs [path, [values]]"
    else:
        yield f"unknown condition {kind!r}; known: all, any, not, compare, in"


def paths(condition: Any) -> Iterator[str]:
    """Every path a (valid) condition looks at."""
    if isinstance(condition, str):
        match = _TEXT_FORM.fullmatch(condition)
        yield match[1] if match else condition.strip()
    elif isinstance(condition, Mapping):
        for kind, body in condition.items():
            if kind in ("all", "any"):
                for part in body:
                    yield from paths(part)
            elif kind == "not":
                yield from paths(body)
            else:
                yield body[0]


def is_path(value: Any) -> bool:
    """Whether a value is a path by its form."""
    return isinstance(value, str) and _PATH.fullmatch(value) is not None


def placeholders(text: str) -> list[str]:
    """The `{path}`s of a text."""
    return _PLACEHOLDER.findall(text)


def substitute(text: str, resolve: Resolve) -> str:
    """Puts values in for `{path}`s, in one pass: braces inside a value stay plain text."""
    if "{" not in text:
        return text

    def value(match: re.Match) -> str:
        try:
            return as_text(resolve(match[1]))
        except KeyError:
            return match[0]

    return _PLACEHOLDER.sub(value, text)


def as_text(value: Any) -> str:
    """A value as prompt text: None is nothing, sequences are joined by commas."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {as_text(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    if hasattr(value, "tolist"):
        return as_text(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        items = (
            sorted(map(as_text, value))
            if isinstance(value, (set, frozenset))
            else map(as_text, value)
        )
        return ", ".join(items)
    return str(value)


@functools.lru_cache(maxsize=1 << 14)
def _parsed(condition: str) -> tuple[str, str, Any]:
    """A text condition's path, operator and literal; a path alone has no operator."""
    match = _TEXT_FORM.fullmatch(condition)
    if match:
        return match[1], match[2], _literal(match[3])
    return condition.strip(), "", None


def _compare(path: str, symbol: str, wanted: Any, resolve: Resolve) -> bool:
    try:
        return bool(_OPERATORS[symbol](_plain(resolve(path)), wanted))
    except (KeyError, TypeError, ValueError):
        return False


def _truth(path: str, resolve: Resolve) -> bool:
    try:
        return bool(_plain(resolve(path)))
    except (KeyError, ValueError):
        return False


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, tuple)):  # the many; asking those for tolist is slow
        return value
    return value.tolist() if hasattr(value, "tolist") else value


def _literal(text: str) -> Any:
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text.strip("'\"")


def _is_list(value: Any, length: int | None = None) -> bool:
    return isinstance(value, (list, tuple)) and length in (None, len(value))
