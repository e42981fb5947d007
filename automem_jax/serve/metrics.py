"""Counters in Prometheus' text format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

_GAUGES = ("blocks_", "queued", "running", "time_to_", "programs")


def exposition(
    engine: Mapping[str, Any], statuses: Mapping[int, int], in_flight: int, disconnects: int
) -> str:
    """The engine's counters as automem_engine_*, the server's own as automem_http_*."""
    lines: list[str] = []

    def add(name: str, kind: str, values: Mapping[str, float]) -> None:
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(f"{name}{label} {_number(value)}" for label, value in values.items())

    add(
        "automem_http_responses_total",
        "counter",
        {f'{{status="{status}"}}': count for status, count in sorted(statuses.items())},
    )
    add("automem_http_requests_in_flight", "gauge", {"": in_flight})
    add("automem_http_disconnects_total", "counter", {"": disconnects})
    for name, value in engine.items():
        gauge = name.startswith(_GAUGES)
        full = f"automem_engine_{name}" + ("" if gauge else "_total")
        if isinstance(value, Mapping):
            labelled = {f'{{name="{k}"}}': v for k, v in value.items() if isinstance(v, Real)}
            add(full, "gauge" if gauge else "counter", labelled)
        elif isinstance(value, Real):
            add(full, "gauge" if gauge else "counter", {"": value})
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    return repr(value) if isinstance(value, float) else str(int(value))
