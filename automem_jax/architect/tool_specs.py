"""What the tools of a review are called, take and mean; and a check of what a model gives them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from automem_jax.architect.clients import ToolSpec
from automem_jax.architect.render import PLACES


class ToolError(ValueError):
    """A call asks for what there is not; the message tells the model what there is."""


def _schema(needed: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": needed.split()}


_CURSOR = {"type": "string", "description": "the `next` of the answer before, to go on"}
_TEMPLATE = {
    "type": "string",
    "description": "id of a template that was played; empty: the current one",
}
_EPISODE = {"type": "integer", "description": "an episode, by the number list_episodes gives"}
_STEP = {"type": "integer", "description": "environment step, from 0"}
_PROPOSED = {
    "template_json": {"type": "object", "description": "a whole template; or give patch"},
    "patch": {
        "type": "array",
        "description": "RFC 6902 JSON patch of the current template (add, remove, replace, move, test)",
        "items": {
            "type": "object",
            "properties": {
                "op": {"type": "string"},
                "path": {"type": "string"},
                "from": {"type": "string"},
                "value": {"description": "any JSON value"},
            },
            "required": ["op", "path"],
        },
    },
}

SPECS = (
    ToolSpec(
        "list_episodes",
        "Episodes of a template on the search seeds: outcome and how memory was used.",
        _schema(
            template=_TEMPLATE,
            order={"type": "string", "enum": ["progression", "episode"]},
            cursor=_CURSOR,
        ),
    ),
    ToolSpec(
        "read_steps",
        "Steps first..last of an episode: observation, LOG and PLAN with every reply, operation and "
        "result, memory changes, action; with prompts, what each prompt said too.",
        _schema(
            "episode first last",
            episode=_EPISODE,
            first=_STEP,
            last=_STEP,
            template=_TEMPLATE,
            prompts={"type": "boolean"},
            cursor=_CURSOR,
        ),
    ),
    ToolSpec(
        "search_traces",
        "Finds a text (case aside) in all episodes of a template, or in one: step, place, excerpt.",
        _schema(
            "text",
            text={"type": "string"},
            where={"type": "string", "enum": ["", *PLACES]},
            episode=_EPISODE,
            template=_TEMPLATE,
            cursor=_CURSOR,
        ),
    ),
    ToolSpec(
        "memory_files",
        "The agent's files, line by line, as they were after a step.",
        _schema(
            "episode step",
            episode=_EPISODE,
            step=_STEP,
            file={"type": "string", "description": "one file alone"},
            template=_TEMPLATE,
            cursor=_CURSOR,
        ),
    ),
    ToolSpec(
        "memory_diff",
        "What changed in memory from after step first to after step last (first -1: from the start).",
        _schema(
            "episode first last",
            episode=_EPISODE,
            first={"type": "integer"},
            last=_STEP,
            template=_TEMPLATE,
            cursor=_CURSOR,
        ),
    ),
    ToolSpec(
        "compare_runs",
        "Two templates on the same search seeds, seed by seed.",
        _schema(
            "first second",
            first={"type": "string", "description": "a template's id"},
            second={"type": "string", "description": "a template's id"},
            cursor=_CURSOR,
        ),
    ),
    ToolSpec(
        "show_template",
        "A template's whole JSON, part by part.",
        _schema(template=_TEMPLATE, cursor=_CURSOR),
    ),
    ToolSpec(
        "template_schema",
        "JSON schema and meaning of each part of a template.",
        _schema(
            part={"type": "string", "description": "only parts whose place holds this word"},
            cursor=_CURSOR,
        ),
    ),
    ToolSpec(
        "validate_template",
        "Checks a proposal without submitting it: problems, changes against the current template, leaks.",
        _schema(**_PROPOSED, cursor=_CURSOR),
    ),
    ToolSpec(
        "preview_prompt",
        "The first prompts of LOG and PLAN at a step of a recorded episode under a proposal (or, without "
        "one, the current template), with the tokens each slot takes.",
        _schema("episode step", episode=_EPISODE, step=_STEP, **_PROPOSED, cursor=_CURSOR),
    ),
    ToolSpec(
        "submit_template",
        "Ends the review with a proposal. It must be valid, change structure, and hold no answers to "
        "single episodes; else the reasons come back and the review goes on.",
        _schema(
            "diagnosis expected_effect",
            **_PROPOSED,
            diagnosis={"type": "string", "description": "what goes wrong, with evidence"},
            expected_effect={
                "type": "string",
                "description": "what the change does about it, with a figure where possible",
            },
        ),
    ),
)


def checked_arguments(spec: ToolSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the kinds that the schema says; a number or a truth written as text is taken.

    Raises:
      ToolError: one is unknown, missing, or of another kind.
    """
    known = spec.schema["properties"]
    values = {}
    for name, value in given.items():
        if name == "template" and name not in known and "template_json" in known:
            name = "template_json"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise ToolError(f"{spec.name}: no argument {name!r}; {hint}")
        if value is not None:
            values[name] = _converted(value, known[name], f"{spec.name}.{name}")
    for name in spec.schema["required"]:
        if name not in values:
            raise ToolError(f"{spec.name}: lacks {name!r}")
    return values


def _converted(value: Any, schema: Mapping[str, Any], place: str) -> Any:
    kind = schema.get("type")
    if kind == "integer":
        if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
            value = int(value) if len(value) < 20 else value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        good = isinstance(value, int) and not isinstance(value, bool)
    elif kind == "boolean":
        value = (
            {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
        )
        good = isinstance(value, bool)
    elif kind == "string":
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        good = isinstance(value, str) and value in schema.get("enum", [value])
    else:  # a template or a patch; as text it is read as JSON later
        good = isinstance(value, (str, Mapping, list))
    if not good:
        wanted = " or ".join(map(repr, schema.get("enum", ()))) or kind
        raise ToolError(f"{place}: {wanted} is wanted, got {str(value)[:60]!r}")
    return value
