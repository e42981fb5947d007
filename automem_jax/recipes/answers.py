"""JSON in the answers of a model: data, found in prose and never executed."""

from __future__ import annotations

import json
from typing import Any

from automem_jax.architect.proposal import ProposalError

MAX_ANSWER_CHARS = 400_000
_MAX_OBJECTS = 64  # places in an answer where a JSON object may start


def extract_json(text: str) -> dict[str, Any]:
    """The first balanced JSON object with "recipes" or "read" in a text, else the first at all.

    Prose and code fences around it are ignored.

    Raises:
      ProposalError: there is none; the message says where the most promising one breaks.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise ProposalError(f"answer: {len(text)} characters; at most {MAX_ANSWER_CHARS} are read")
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    problem, longest, other = "it holds no {", 0, None
    start = text.find("{")
    for _ in range(_MAX_OBJECTS):
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
            if "recipes" in value or "read" in value:
                return value
            other = other or value
        except RecursionError:
            raise ProposalError("answer: JSON nested too deeply") from None
        except json.JSONDecodeError as error:
            # The object that gets furthest is the one meant; its error is worth telling.
            end = error.pos
            if end - start > longest:
                longest = end - start
                problem = f"{error.msg} at line {error.lineno} column {error.colno}"
        except ValueError as error:  # NaN and Infinity
            raise ProposalError(f"answer: {error}") from None
        start = text.find("{", max(end, start + 1))
    if other is not None and longest < 20:
        return other
    raise ProposalError(f"answer: no whole JSON object ({problem})")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
