"""What an evolution will do and cost at most, told before it starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from automem_jax.architect.budget import Spend
from automem_jax.architect.review import model_price
from automem_jax.architect.search import SCREEN_SEEDS
from automem_jax.architect.sequential import AlphaWealth
from automem_jax.config import ExperimentConfig, seed_sets
from automem_jax.policies.prices import load_prices

_KEPT = 0.5  # chance that a proposal is kept, where nothing is known of it
_SHORT = 4  # a short review has so many times fewer turns than are allowed
_EARLY = 0.5  # share of the gate seeds that a candidate without an effect takes, by simulation


@dataclass(frozen=True)
class Forecast:
    """Amounts of one evolution.

    Attributes:
      candidates: proposals at most. level: of the first one's gate.
      most: spend if every proposal is made and goes through all its episodes and calls.
      likely: spend if no proposal has an effect: all are made, and the gate drops them early.
      least: spend if the first proposal of each revision is decided at the first look, by short reviews.
      middle: spend if each proposal is kept with a chance of _KEPT, after _EARLY of the gate's pairs.
      unpriced: servers whose price is not known, so that their dollars count as 0.
      unknown_tokens: the agent is a server's model, and what its episodes cost is not known yet.
    """

    candidates: int
    level: float
    most: Spend
    likely: Spend
    least: Spend = Spend()
    middle: Spend = Spend()
    unpriced: tuple[str, ...] = ()
    unknown_tokens: bool = False


def forecast(
    config: ExperimentConfig, prompt_tokens: int = 0, episode: Spend | None = None
) -> Forecast:
    """Forecasts an evolution from its config alone.

    Args:
      prompt_tokens: of the architect's first request; each later call of a review adds about one
        answer of a tool and one reply.
      episode: tokens and dollars of one of the agent's episodes; None: not known.
    """
    architect = config.architect
    sets = {name: len(seeds) for name, seeds in seed_sets(config.seeds).items()}
    candidates = architect.revisions * architect.attempts
    per_gate, look = sets["gate"], min(max(architect.gate.batch, 8), sets["gate"])
    tries = sum((1 - _KEPT) ** n for n in range(architect.attempts))  # of a revision
    if architect.search == "population":
        screened = min(SCREEN_SEEDS, sets["search"])
        most = (1 + candidates) * (sets["search"] + per_gate)
        likely = sets["search"] + candidates * screened + candidates * sets["search"] // 4
        least = sets["search"] + candidates * screened
        middle, made = likely + round((1 + candidates * _KEPT) * per_gate * _EARLY), candidates
    else:
        most = architect.revisions * sets["search"] + (1 + candidates) * per_gate
        likely = sets["search"] + round((1 + candidates) * per_gate * _EARLY)
        made = architect.revisions * tries
        least = sets["search"] + (1 + architect.revisions) * look
        middle = architect.revisions * sets["search"] + round((1 + made) * per_gate * _EARLY)
    calls, tokens = _review_calls(config, prompt_tokens)
    price = model_price(architect) if architect.kind == "api" else None
    cost = price.cost_usd(*tokens) if price else 0.0
    one = Spend(dollars=cost, prompt_tokens=tokens[0], completion_tokens=tokens[1], calls=calls)
    short, short_tokens = _review_calls(config, prompt_tokens, _SHORT)
    short_cost = price.cost_usd(*short_tokens) if price else 0.0
    brief = Spend(short_cost, short_tokens[0], 0, short_tokens[1], short)
    unpriced = [architect.api.model] if architect.kind == "api" and price is None else []
    served = config.policy.kind != "local"
    if served and not load_prices(config.policy.prices, (config.policy.model,)):
        unpriced.append(config.policy.model)
    return Forecast(
        candidates=candidates,
        level=AlphaWealth(1.0 - architect.confidence, max(1, candidates)).stake(),
        most=_times(one, candidates) + _times(episode or Spend(), most) + Spend(episodes=most),
        likely=_times(one, candidates / 2) + _times(episode or Spend(), likely)
        + Spend(episodes=likely),
        least=_times(brief, architect.revisions) + _times(episode or Spend(), least)
        + Spend(episodes=least),
        middle=_times(one, made / 2) + _times(episode or Spend(), middle)
        + Spend(episodes=middle),
        unpriced=tuple(unpriced),
        unknown_tokens=served and episode is None,
    )  # fmt: skip


def _review_calls(
    config: ExperimentConfig, prompt_tokens: int, shorter: int = 1
) -> tuple[int, tuple[int, int]]:
    """Calls of one review at most, and its prompt and completion tokens; of one `shorter` times shorter."""
    architect = config.architect
    if architect.kind != "api":
        return 0, (0, 0)
    review, reply = architect.review, architect.api.max_tokens
    prompt = completion = calls = 0
    history = prompt_tokens
    for _ in range(max(1, review.turns // shorter)):
        if review.tokens and prompt + completion + history + reply > review.tokens:
            break
        calls, prompt, completion = calls + 1, prompt + history, completion + reply
        history += reply + review.tool_tokens
    return calls, (prompt, completion)


def _times(spend: Spend, count: float) -> Spend:
    fields = {f.name: getattr(spend, f.name) for f in dataclasses.fields(spend)}
    return Spend(
        **{
            name: v * count if isinstance(v, float) else round(v * count)
            for name, v in fields.items()
        }
    )


def describe(config: ExperimentConfig, told: Forecast) -> str:
    """The plan and the forecast as lines for a person."""
    architect, sets = config.architect, seed_sets(config.seeds)
    gate = architect.gate
    spans = ", ".join(
        f"{name} {seeds.start}..{seeds.stop - 1}" for name, seeds in sets.items() if len(seeds)
    )
    lines = [
        f"plan: {architect.search} search, architect {architect.kind}, {told.candidates} proposals at "
        f"most ({architect.revisions} revisions x {architect.attempts} attempts)",
        f"seeds: {spans}; disjoint; held-out ones are not touched here",
        f"gate: up to {len(sets['gate'])} pairs, {gate.batch} at a time; all wrong keeps together at "
        f"most {100 * (1 - architect.confidence):g} %, the first candidate's test at "
        f"{100 * told.level:.2g} %",
        f"forecast, if nothing helps: {_amount(told.likely)}",
        f"forecast, at most: {_amount(told.most)}",
    ]
    if told.unpriced:
        names = ", ".join(name or "?" for name in told.unpriced)
        lines.append(f"no price is known of: {names} (architect.price, architect.api.prices)")
    if told.unknown_tokens:
        lines.append("the agent's own calls are not in it: what an episode takes is not known yet")
    caps = dataclasses.asdict(architect.budget)
    lines.append("caps: " + (", ".join(f"{k} {v:g}" for k, v in caps.items() if v) or "none"))
    for name, cap in caps.items():
        if name != "wall_s" and cap and getattr(told.most, name) > cap:
            lines.append(f"warning: the cap of {cap:g} {name} may end it before the plan does")
    return "\n".join(lines)


def _amount(spend: Spend) -> str:
    parts = [f"{spend.episodes:,} episodes"]
    if spend.calls:
        parts += [f"{spend.calls:,} calls", f"{spend.tokens:,} tokens", f"{spend.dollars:,.2f} USD"]
    elif spend.tokens:
        parts += [f"{spend.tokens:,} tokens", f"{spend.dollars:,.2f} USD"]
    return ", ".join(parts)
