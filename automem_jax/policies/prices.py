"""What calls cost: a table of prices, and counts of calls, tokens and money by model.

A price table is a JSON file that the user keeps, since prices change:

    {"big-model": {"input": 3.0, "cached_input": 0.3, "output": 15.0}}

US dollars per million tokens. `cached_input` is for prompt tokens that the server had in its cache,
`cache_write` for those it put there; both are `input` where they are not given.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.config import ConfigError, unknown_key

_FIELDS = ("input", "output", "cached_input", "cache_write")


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cached_input: float
    cache_write: float

    def cost_usd(self, prompt: int, completion: int, cached: int = 0, written: int = 0) -> float:
        """Cost of a call. `cached` and `written` tokens are part of the prompt's."""
        fresh = max(0, prompt - cached - written)
        total = fresh * self.input + cached * self.cached_input + written * self.cache_write
        return (total + completion * self.output) / 1e6


@dataclass
class ModelUsage:
    """What was asked of one model.

    Attributes:
      calls: requests answered or given up. retries: tries beyond the first of each. failed: given up.
      prompt_tokens, cached_tokens, completion_tokens: as the server counts them, thinking included.
      cost_usd: None without a price table.
    """

    calls: int = 0
    retries: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None

    def add(self, other: ModelUsage) -> None:
        """Adds another's counts."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if theirs is not None:
                setattr(self, field.name, (mine or 0) + theirs)


def load_prices(path: str, models: tuple[str, ...]) -> dict[str, Price]:
    """The prices of these models; empty without a path.

    Raises:
      ConfigError: the file cannot be read, or lacks a model, or a price in it is none.
    """
    if not path:
        return {}
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.prices: {path} cannot be read ({error})") from error
    if not isinstance(table, dict):
        raise ConfigError(f"policy.prices: {path} must hold an object: model -> prices")
    return {model: _price(path, model, table) for model in models if model}


def _price(path: str, model: str, table: Mapping[str, Any]) -> Price:
    if model not in table:
        raise ConfigError(f"policy.prices: {path} has no price of model {model!r}; add it")
    row = table[model]
    place = f"policy.prices: {path}: {model!r}"
    if not isinstance(row, dict) or not {"input", "output"} <= row.keys():
        raise ConfigError(f"{place}: give input and output, in US dollars per million tokens")
    for name, value in row.items():
        if name not in _FIELDS:
            raise ConfigError(f"{place}: {unknown_key(name, _FIELDS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise ConfigError(f"{place}.{name}: {value!r} is no price")
    return Price(
        input=row["input"],
        output=row["output"],
        cached_input=row.get("cached_input", row["input"]),
        cache_write=row.get("cache_write", row["input"]),
    )
