"""Repairs: from what the model wrote to a legal action name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from automem_jax.agent.template import ActionsSpec

REPAIRS = ("casefold", "strip_punctuation", "alias", "strip_prefix", "nearest_prefix")
_PREFIX = re.compile(r"^(?:i |will |go |going |move |walk |step |to |the |action:? )+")
_MIN_PREFIX = 2


def repair(written: str, legal: Sequence[str], spec: ActionsSpec) -> str | None:
    """The legal action that `written` means; None if there is none.

    The repairs that the template names are tried one after the other, each on the result of those
    before it: casefold (case, `_` and `-` as spaces), strip_punctuation, alias, strip_prefix
    ("move to the", ...), nearest_prefix (the only legal name that starts with the text, or the
    longest legal name that the text starts with).
    """
    if written in legal:
        return written
    text = written.strip()[:200]
    names = {_plain(name): name for name in reversed(legal)}
    for kind in spec.repairs:
        if kind == "casefold":
            text = _plain(text)
        elif kind == "strip_punctuation":
            text = text.strip(" .,;:!?\"'`*()[]<>|")
        elif kind == "alias":
            aliases = {_plain(alias): name for alias, name in spec.aliases.items()}
            text = aliases.get(_plain(text), text)
        elif kind == "strip_prefix":
            text = _PREFIX.sub("", text)
        elif kind == "nearest_prefix" and len(text) >= _MIN_PREFIX:
            longer = [name for plain, name in names.items() if plain.startswith(_plain(text))]
            inside = [name for plain, name in names.items() if _starts(_plain(text), plain)]
            if len(longer) == 1:
                text = longer[0]
            elif inside:
                text = max(inside, key=len)
        if text in legal:
            return text
        if "casefold" in spec.repairs and _plain(text) in names:
            return names[_plain(text)]
    return None


def fallback(legal: Sequence[str], spec: ActionsSpec) -> str:
    """What is done without a usable action: the template's, or the task's first."""
    return spec.fallback if spec.fallback in legal else legal[0]


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())


def _starts(text: str, name: str) -> bool:
    return text.startswith(name) and not text[len(name) : len(name) + 1].isalnum()
