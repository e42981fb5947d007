"""Answers of tools, within a budget of tokens: what does not fit is paged.

`next` names the cursor that a call with the same arguments goes on with. A single item that is too
long comes in parts of its JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from automem_jax.agent.budget import estimate_tokens
from automem_jax.architect.clients import ToolAnswer
from automem_jax.architect.tool_specs import ToolError


@dataclass
class Paged:
    """An answer: what stands before the items, and the items, made as they are needed."""

    head: Mapping[str, Any]
    items: Iterable[Any]


def failed(message: str, tokens: int) -> ToolAnswer:
    message = _fitting(message, tokens)
    return ToolAnswer(json.dumps({"error": message}, ensure_ascii=False), error=True)


def page(paged: Paged, cursor: str, tokens: int) -> str:
    """As many items from the cursor on as fit; where the first does not, a part of its JSON text."""
    first, offset = _place(cursor)
    answer: dict[str, Any] = dict(paged.head)
    left = tokens - estimate_tokens(json.dumps(answer, ensure_ascii=False)) - 40
    items: list[Any] = []
    for number, item in enumerate(paged.items):
        if number < first:
            continue
        text = json.dumps(item, ensure_ascii=False)
        cost = estimate_tokens(text) + 2
        if cost <= left and not offset:
            items.append(item)
            left -= cost
            continue
        if items:
            answer |= {"items": items, "next": str(number)}
            break
        part = _fitting(text[offset:], max(200, left) // 2)  # JSON in JSON: quotes count twice
        end = offset + len(part)
        answer |= {"part_of_item": number, "characters": [offset, end, len(text)], "part": part}
        answer["next"] = f"{number}:{end}" if end < len(text) else str(number + 1)
        break
    else:
        answer["items"] = items
        return json.dumps(answer, ensure_ascii=False)
    answer["more"] = f"call again with the same arguments and cursor {answer['next']!r}"
    return json.dumps(answer, ensure_ascii=False)


def _place(cursor: str) -> tuple[int, int]:
    item, _, offset = cursor.partition(":")
    if not all(part.isdecimal() and len(part) < 10 for part in (item or "0", offset or "0")):
        raise ToolError(f"cursor {cursor!r} is none; give the `next` of the answer before")
    return int(item or 0), int(offset or 0)


def _fitting(text: str, tokens: int) -> str:
    """The longest start of a text, by halving, of so many tokens."""
    size = min(len(text), 2 * tokens)
    while size > 1 and estimate_tokens(text[:size]) > tokens:
        size = size * 3 // 4
    return text[:size]
