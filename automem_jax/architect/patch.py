"""A proposed template as data: a whole one, or a JSON patch (RFC 6902) of a known one."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.agent.template import Template, to_data
from automem_jax.architect.proposal import ProposalError
from automem_jax.architect.streams import no_constant

OPERATIONS = (
    "add",
    "remove",
    "replace",
    "move",
    "test",
)  # "copy" could double a document each time
MAX_OPERATIONS = 200


def apply_patch(parent: Template, patch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parent's data with a patch applied; all of it or, by raising, nothing.

    Raises:
      ProposalError: an operation is malformed or does not apply; its number and path are named, and
        the keys that there are where its path ends.
    """
    import jsonpatch
    import jsonpointer

    if not isinstance(patch, Sequence) or isinstance(patch, str):
        raise ProposalError("patch: expected a list of operations")
    if len(patch) > MAX_OPERATIONS:
        raise ProposalError(f"patch: {len(patch)} operations; at most {MAX_OPERATIONS}")
    data: Any = to_data(parent)
    for number, operation in enumerate(patch):
        place = f"patch[{number}]"
        if not isinstance(operation, Mapping):
            raise ProposalError(f"{place}: expected an object with op and path")
        name, path = operation.get("op"), operation.get("path")
        if name not in OPERATIONS:
            raise ProposalError(f"{place}.op: {name!r} is none of {', '.join(OPERATIONS)}")
        for key in ("path", "from") if name == "move" else ("path",):
            if not isinstance(operation.get(key), str):
                raise ProposalError(f"{place}.{key}: expected a path such as /slots/notes/view")
        try:
            one = jsonpatch.JsonPatch([copy.deepcopy(dict(operation))])
            data = one.apply(data)
        except (
            jsonpatch.JsonPatchException,
            jsonpointer.JsonPointerException,
            TypeError,
            ValueError,
        ) as error:
            said = " ".join(str(error).split())[:200]
            raise ProposalError(
                f"{place}: {name} {path!r} does not apply ({said}){_nearby(data, path)}"
            ) from None
    if not isinstance(data, dict):
        raise ProposalError("patch: leaves no object; a template is one")
    return data


def proposed_data(parent: Template, template_json: Any = None, patch: Any = None) -> dict[str, Any]:
    """The data of a proposal: a whole template, or a patch of its parent; either may be JSON as text.

    Raises:
      ProposalError: both or neither is given, JSON that cannot be read, or as `apply_patch`.
    """
    given = [value for value in (template_json, patch) if value not in (None, "", {}, [])]
    if len(given) != 1:
        raise ProposalError("give template_json (a whole template) or patch (a list), one of them")
    if patch in (None, "", {}, []):
        value = _from_text(template_json, "template_json")
        if not isinstance(value, dict):
            raise ProposalError("template_json: expected a JSON object")
        return value
    value = _from_text(patch, "patch")
    try:
        return apply_patch(parent, value)
    except RecursionError:
        raise ProposalError("patch: nested too deeply") from None


def _from_text(value: Any, place: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=no_constant)
    except RecursionError:
        raise ProposalError(f"{place}: JSON nested too deeply") from None
    except ValueError as error:
        raise ProposalError(f"{place}: not JSON ({error})") from None


def _nearby(data: Any, path: str) -> str:
    """What there is at the last part of a path that leads somewhere."""
    at = data
    for part in path.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping) and part in at:
            at = at[part]
        elif isinstance(at, list) and part.isdigit() and int(part) < len(at):
            at = at[int(part)]
        else:
            if isinstance(at, list):
                return f"; a list of {len(at)} stands there, - is its end"
            if isinstance(at, Mapping):
                near = difflib.get_close_matches(part, list(at), n=1, cutoff=0.5)
                known = ", ".join(list(at)[:30])
                return f"; did you mean {near[0]!r}?" if near else f"; keys there: {known}"
            return "; a single value stands there"
    return ""
