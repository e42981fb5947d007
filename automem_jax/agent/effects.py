"""Did the last action do anything? Clocks and what moves by itself do not count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from automem_jax.agent.conditions import as_text
from automem_jax.agent.paths import percept_value
from automem_jax.envs.base import Percept

_CLOCKS = ("T", "Turn", "Time", "Step")


class ObsDiff:
    """Whether the last action changed anything that the agent can see.

    Params: paths (percept paths that are compared; default the whole text), clocks (words whose
    number is ignored, e.g. NetHack's `T:12`). Outputs: changed; run_length (percepts in a row that
    look the same, at least 1); effect (in words).
    """

    OUTPUTS = ("changed", "run_length", "effect")
    PARAMS = ("paths", "clocks")

    def __init__(self, paths: Sequence[str] = ("percept.long_text",), clocks=_CLOCKS) -> None:
        words = "|".join(re.escape(word) for word in clocks)
        self._clock = re.compile(rf"\b(?:{words})\s*[:=]?\s*\d+", re.IGNORECASE) if words else None
        self._paths = tuple(paths)
        self._last: list[str] | None = None
        self._changed = True
        self._run_length = 0

    def update(self, percept: Percept) -> None:
        now = [as_text(percept_value(percept, path)) for path in self._paths]
        if self._clock:
            now = [self._clock.sub("", text) for text in now]
        self._changed = now != self._last
        self._run_length = 1 if self._changed else self._run_length + 1
        self._last = now

    def outputs(self) -> dict[str, Any]:
        effect = "something changed" if self._changed else "nothing changed"
        return {"changed": self._changed, "run_length": self._run_length, "effect": effect}
