"""Loop 1 as a whole: the tree of templates, what it spent, and how often it looked at each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automem_jax.architect.ledger import looks_at_seeds
from automem_jax.report.attempts import Attempt
from automem_jax.report.formats import interval, percent
from automem_jax.report.page import Html, join, paragraph, table, tag


def lineage_tree(tried: Sequence[Attempt], best: str = "") -> Html:
    """Every template under the one it was made from, with its progression and interval."""
    names = {attempt.template for attempt in tried}
    roots = dict.fromkeys(a.parent for a in tried if a.parent not in names)
    items = [_branch(root, None, tried, best) for root in roots]
    return join([tag("h3", "Lineage"), tag("ul", *items, cls="lineage")])


def spend_and_looks(ledger: Sequence[Mapping[str, Any]]) -> Html:
    """Tables of what was charged, by what it was for, and of the looks at every seed set."""
    charges = [row for row in ledger if row.get("type") == "charge"]
    if not charges:
        return Html("")
    groups: dict[str, dict[str, float]] = {}
    for row in charges:
        name = f"{row['set']} episodes" if row.get("what") == "episodes" else str(row.get("model"))
        total = groups.setdefault(name, {})
        for key, value in row["spend"].items():
            total[key] = total.get(key, 0) + value
    columns = ("episodes", "calls", "prompt_tokens", "cached_tokens", "completion_tokens")
    rows = [
        (name, *(f"{total.get(c, 0):,}" for c in columns), _dollars(total))
        for name, total in groups.items()
    ]
    everything: dict[str, float] = {}
    for total in groups.values():
        for key, value in total.items():
            everything[key] = everything.get(key, 0) + value
    rows.append(
        ("all", *(f"{everything.get(c, 0):,}" for c in columns), _dollars(everything))
    )  # fmt: skip
    head = ("spent on", *(c.replace("_", " ") for c in columns), "US dollars")
    looks = looks_at_seeds(ledger)
    seen = [(name, f["seeds"], f["looks"], f["most"]) for name, f in looks.items()]
    parts = [
        table(head, rows, "Spend of loop 1"),
        table(("seeds", "looked at", "looks", "most at one seed"), seen, "Looks at seeds"),
    ]
    stops = [row for row in ledger if row.get("type") == "stop"]
    if stops and ledger[-1] is stops[-1]:
        parts.append(paragraph(f"Stopped: {stops[-1].get('reason')}", cls="warning"))
    return join(parts)


def _branch(name: str, attempt: Attempt | None, tried: Sequence[Attempt], best: str) -> Html:
    children = [
        _branch(child.template, child, tried, best) for child in tried if child.parent == name
    ]
    parts: list[object] = [tag("strong", name) if name == best else name]
    if attempt is not None:
        parts.append(f": {_figures(attempt)}")
    else:
        means = [a.gate["baseline_mean"] for a in tried if a.gate and a.against == name]
        if means:
            parts.append(f": {percent(means[-1])} % on the gate seeds")
    if children:
        parts.append(tag("ul", *children))
    return tag("li", *parts)


def _figures(attempt: Attempt) -> str:
    parts = ["kept" if attempt.kept else "in the pool" if attempt.pooled else "dropped"]
    if attempt.edit:
        parts.append(attempt.edit)
    if len(attempt.parents) > 1:
        parts.append(f"merged with {', '.join(attempt.parents[1:])}")
    if attempt.search_mean is not None:
        parts.append(f"{percent(attempt.search_mean)} % on the search seeds")
    if attempt.gate:
        ends = attempt.gate["interval"]
        parts.append(
            f"{percent(attempt.gate['candidate_mean'])} % on the gate seeds, "
            f"{percent(attempt.gate['mean_difference'], True)} points "
            f"{interval(ends, True) if ends else ''} against {attempt.against}"
        )
    return ", ".join(parts)


def _dollars(total: Mapping[str, float]) -> str:
    unknown = " + calls without a price" if total.get("unpriced") else ""
    return f"{total.get('dollars', 0.0):,.4f}{unknown}"
