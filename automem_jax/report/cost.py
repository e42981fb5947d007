"""What a run cost: tokens by directory of traces, calls and dollars by model, time by stage; and the
forecast beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from automem_jax.forecast import compare
from automem_jax.report.formats import dollars, number, seconds
from automem_jax.report.material import Group, Material
from automem_jax.report.page import Html, join, missing, paragraph, table

_TOKENS = ("prompt", "completion", "calls")


@dataclass(frozen=True)
class Spent:
    """Totals of a work directory.

    Attributes:
      episodes, steps, prompt, completion, calls: of finished episodes.
      seconds: of all stages, interrupted runs included; None where none is recorded.
      dollars: paid to servers, the architect's included; None where no price is known.
      unpriced: some server's calls have no price.
    """

    episodes: int
    steps: int
    prompt: int
    completion: int
    calls: int
    seconds: float | None
    dollars: float | None
    unpriced: bool


def spent(material: Material) -> Spent:
    """Adds up what the work directory holds."""
    prices = [usage.get("cost_usd") for _, _, usage in _usage(material)]
    unpriced = any(price is None for price in prices)
    known = [price for price in prices if price is not None]
    asked = [
        row["spend"]
        for row in material.ledger
        if row.get("type") == "charge" and row.get("what") == "call"
    ]
    unpriced |= any(row.get("unpriced") for row in asked)
    known += [row["dollars"] for row in asked if row.get("dollars")]
    return Spent(
        episodes=sum(g.episodes for g in material.groups),
        steps=sum(g.steps for g in material.groups),
        **{kind: sum(g.tokens[kind] for g in material.groups) for kind in _TOKENS},
        seconds=sum(material.timing.values()) if material.timing else None,
        dollars=sum(known) if known else None,
        unpriced=unpriced,
    )


def cost_sentence(material: Material) -> str:
    """What the run took, in one sentence; empty where nothing is recorded."""
    total = spent(material)
    if not total.episodes:
        return ""
    parts = [
        f"{total.episodes:,} episodes of {total.steps:,} steps",
        f"{total.prompt:,} prompt and {total.completion:,} generated tokens in {total.calls:,} calls",
    ]
    if total.seconds is not None:
        parts.append(seconds(total.seconds))
    if total.dollars is not None:
        more = " and calls without a price" if total.unpriced else ""
        parts.append(f"{dollars(total.dollars)} US dollars{more}")
    elif total.unpriced:
        parts.append("calls of servers whose prices are not known")
    return f"It took {', '.join(parts[:-1])} and {parts[-1]}."


def cost(material: Material) -> Html:
    """Tokens by directory of traces, what servers were asked, seconds by stage."""
    return join([_tokens(material), _servers(material), _times(material)])


def forecast(material: Material) -> Html:
    """What was forecast, stage by stage, beside what the stages took so far."""
    compared = compare(material.workdir)
    if not compared:
        return missing(
            "No forecast: `automem forecast` with this --workdir makes one before a run."
        )
    columns = ("stage", "quantity", "low", "expected", "high", "actual", "inside")
    rows = [tuple(getattr(one, name) for name in columns) for one in compared]
    shown = [
        (f"{stage}: {quantity.replace('_', ' ')}", *map(_rounded, (expected, low, high, actual)),
         "-" if inside is None else "yes" if inside else "no")
        for stage, quantity, low, expected, high, actual, inside in rows
    ]  # fmt: skip
    head = ("stage and quantity", "expected", "low", "high", "so far", "inside")
    known = [one for one in compared if one.inside is not None]
    told = f"{sum(one.inside for one in known)} of {len(known)} figures that are known lie inside."
    links = material.data.keep("forecast", columns, rows)
    return join([paragraph(told), table(head, shown, "Forecast and what was taken"), links])


def _rounded(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def _tokens(material: Material) -> Html:
    if not material.groups:
        return missing("No finished episodes yet.")

    def row(group: Group) -> tuple[Any, ...]:
        return (group.name, group.episodes, group.steps, *(group.tokens[k] for k in _TOKENS))

    rows = [row(group) for group in material.groups]
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    head = ("traces", "episodes", "steps", "prompt tokens", "completion tokens", "model calls")
    shown = [(name, *map(number, values)) for name, *values in rows]
    columns = ("traces", "episodes", "steps", "prompt_tokens", "completion_tokens", "calls")
    links = material.data.keep("tokens", columns, rows)
    return join([table(head, shown, "Tokens, from the traces of finished episodes"), links])


def _servers(material: Material) -> Html:
    found = _usage(material)
    if not found:
        text = (
            "No server was asked by a stage: the model ran in this process, which costs no money."
        )
        return paragraph(text, cls="quiet") if material.groups else Html("")
    names = ("calls", "retries", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
    rows = [
        (stage, model, *(usage.get(name, 0) for name in names), usage.get("cost_usd"))
        for stage, model, usage in found
    ]
    head = ("stage", "model", *(name.replace("_", " ") for name in names), "US dollars")
    shown = [
        (stage, model, *map(number, row), dollars(row_cost))
        for stage, model, *row, row_cost in rows
    ]
    links = material.data.keep("servers", ("stage", "model", *names, "cost_usd"), rows)
    prices = ((material.config or {}).get("policy") or {}).get("prices")
    text = (
        f"Priced by {prices}."
        if prices
        else "Without a price table (policy.prices) dollars are not known."
    )
    caption = "What servers were asked, as they count it"
    return join([table(head, shown, caption), links, paragraph(text, cls="quiet")])


def _usage(material: Material) -> list[tuple[str, str, Mapping[str, Any]]]:
    stages = (material.usage or {}).get("stages") or {}
    return [(stage, model, usage) for stage, by in stages.items() for model, usage in by.items()]


def _times(material: Material) -> Html:
    if not material.timing:
        return missing("No stage times recorded yet.")
    whole = sum(material.timing.values())
    rows = [
        (name, seconds(s), f"{100 * s / whole:.0f} %" if whole else "-")
        for name, s in material.timing.items()
    ]
    rows.append(("all", seconds(whole), "100 %" if whole else "-"))
    links = material.data.keep("times", ("stage", "seconds"), material.timing.items())
    return join([table(("stage", "time", "share"), rows, "Time, interrupted runs included"), links])
