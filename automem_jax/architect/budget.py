"""What loop 1 may spend, and what it has spent: dollars, tokens, episodes, wall time.

For an architect, in one conversation:

    budget.require(budget.estimate(model, prompt_tokens, completion_tokens))   # before each call
    budget.charge_call(f"{context.candidate_id}/call{n}", model, usage)        # after each answer

Every charge is a row of the ledger under a key of its own, and a key is charged once. So whoever
replays answers it has on disk charges all of them again, and nothing counts twice.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.architect.ledger import Ledger
from automem_jax.files import write_json
from automem_jax.policies.prices import ModelUsage, Price


class BudgetSpent(RuntimeError):
    """The next step would go beyond a cap; the message says which. The loop ends with what it kept."""


@dataclass(frozen=True)
class Limits:
    """Caps of one evolution; 0 is no cap.

    Attributes:
      dollars: US dollars, of the architect's and the agent's servers together.
      tokens: prompt + completion tokens of those servers; an in-process model's are free.
      episodes: episodes played, search and gate.
      wall_s: seconds, of all processes that worked on this evolution.
    """

    dollars: float = 0.0
    tokens: int = 0
    episodes: int = 0
    wall_s: float = 0.0


@dataclass(frozen=True)
class Spend:
    """An amount spent, or about to be.

    Attributes:
      dollars: 0 where no price is known. unpriced: calls whose price is not known.
      prompt_tokens: cached ones included. cached_tokens: of those, served from the server's cache.
      calls: answers of the architect's server. episodes: played. wall_s: seconds.
    """

    dollars: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    unpriced: int = 0
    episodes: int = 0
    wall_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spend) -> Spend:
        names = [f.name for f in dataclasses.fields(self)]
        return Spend(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Budget:
    """Limits against a ledger's charges.

    Args:
      limits: the caps.
      ledger: holds the charges; those it already has are counted at once.
      prices: by model; a model without a price costs nothing in dollars and counts as unpriced.
      clock_file: keeps the seconds of earlier processes; none: only this one's count. The ledger
        itself holds no time, so that a resumed run ends with the same bytes.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        limits: Limits,
        ledger: Ledger,
        prices: Mapping[str, Price] | None = None,
        clock_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limits, self.ledger, self.prices = limits, ledger, dict(prices or {})
        self._clock, self._clock_file = clock, clock_file
        self._started = clock()
        self._earlier_s = _read_seconds(clock_file)
        self._keys: set[str] = set()
        self._total = Spend()
        for row in ledger.rows:
            if row.get("type") == "charge":
                self._count(row)

    def estimate(self, model: str, prompt_tokens: int, completion_tokens: int) -> Spend:
        """What one call of this size would cost at most: no token of it cached."""
        price = self.prices.get(model)
        return Spend(
            dollars=price.cost_usd(prompt_tokens, completion_tokens) if price else 0.0,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            calls=1,
        )

    def allows(self, estimate: Spend | None = None) -> str | None:
        """None where `estimate` (nothing unless given) fits on top of what is spent, else why not.

        A cap that is reached exactly is kept; where nothing is about to be spent it counts as reached.
        """
        spent, more = self.spent(), estimate or Spend()
        for name, unit in _CAPS:
            cap, have, want = (getattr(x, name) for x in (self.limits, spent, more))
            if not cap:
                continue
            if have + want > cap or (have >= cap and (want > 0 or name == "wall_s")):
                return (
                    f"budget: {_figure(have, unit)} spent and {_figure(want, unit)} to come, "
                    f"of {_figure(cap, unit)} allowed (architect.budget.{name})"
                )
        return None

    def require(self, estimate: Spend | None = None) -> None:
        """Raises BudgetSpent where `allows` says no."""
        reason = self.allows(estimate)
        if reason is not None:
            raise BudgetSpent(reason)

    def charge_call(self, key: str, model: str, usage: ModelUsage) -> None:
        """Records the cost of one architect's answer (retries included), once for each key.

        `usage.cost_usd` is taken as it is; where it is None, the price table says.
        """
        cost = usage.cost_usd
        price = self.prices.get(model)
        if cost is None and price is not None:
            cost = price.cost_usd(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        spend = Spend(
            dollars=cost or 0.0,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            calls=1,
            unpriced=int(cost is None),
        )
        self.charge(key, spend, what="call", model=model)

    def charge(self, key: str, spend: Spend, **facts: Any) -> None:
        """Adds a charge to the ledger, on disk on return; a key that was charged before is passed over.

        `facts` (JSON values) stand beside it in the row. Wall time is not part of a charge.
        """
        if key in self._keys:
            return
        amounts = {k: v for k, v in dataclasses.asdict(spend).items() if v and k != "wall_s"}
        self._count(self.ledger.append({"type": "charge", "key": key, **facts, "spend": amounts}))
        self.save_clock()

    def charged(self, key: str) -> bool:
        """Whether this key stands in the ledger."""
        return key in self._keys

    def spent(self) -> Spend:
        """Everything spent so far, by this process and those before it."""
        return dataclasses.replace(self._total, wall_s=self._earlier_s + self._seconds())

    def save_clock(self) -> None:
        """Writes the seconds spent so far beside the ledger."""
        if self._clock_file is not None:
            write_json(self._clock_file, {"wall_s": round(self.spent().wall_s, 3)})

    def _seconds(self) -> float:
        return self._clock() - self._started

    def _count(self, row: Mapping[str, Any]) -> None:
        self._keys.add(row["key"])
        self._total += Spend(**row["spend"])


_CAPS = (("dollars", "USD"), ("tokens", "tokens"), ("episodes", "episodes"), ("wall_s", "s"))


def _figure(value: float, unit: str) -> str:
    text = f"{value:,.4f}" if unit == "USD" else f"{value:,.0f}"
    return f"{text} {unit}"


def _read_seconds(path: Path | None) -> float:
    if path is None or not path.exists():
        return 0.0
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["wall_s"])
    except (ValueError, KeyError, TypeError):
        return 0.0  # a lost clock makes the time cap later, not the run wrong
