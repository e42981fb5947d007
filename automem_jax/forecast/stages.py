"""Stage by stage: how many episodes and calls, how many tokens, what money and time.

Ranges, because little is certain beforehand. Where a script played in place of a model, its figure is the
low end, and the others lie between it and the cap that the configuration sets (steps, tokens of an answer),
see amounts.between; a pilot run's own episodes narrow that (`--from`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from automem_jax.architect.forecast import forecast as forecast_evolution
from automem_jax.architect.review import model_price
from automem_jax.config import ExperimentConfig, config_hash, seed_sets
from automem_jax.forecast.amounts import Amounts, Range, between
from automem_jax.forecast.recorded import BASE, CONTROL, SPECIALIST, Group, Groups
from automem_jax.policies.prices import load_prices

CHARACTERS_A_TOKEN = Range(3.0, 3.8, 4.6)  # English game text under vocabularies of 32 k to 256 k
_REUSED = Range(
    0.85, 0.7, 0.3
)  # share of prompt tokens that a prefix cache has; the cheapest end first
_SPECIALIST = Range(
    0.8, 1.0, 3.0
)  # how much a specialist writes, times the base, where none was recorded
_SELECTED = Range(0.1, 0.33, 1.0)  # share of memory turns selected, where none was recorded
_SELECT_S = Range(5e-5, 2e-4, 2e-3)  # seconds a step of reading traces
_REMAINING = Range(0.25, 0.5, 1.0)  # of an episode, after a decision in it
_JUDGED = Range(0.5, 1.5, 3.0)  # what a judge reads of a decision, times its prompt
_CRITERIA_TOKENS, _RATING_TOKENS = 600, Range(20, 50, 150)
_FILL = 0.9  # of packed rows
_SPEED = 2.0  # measured speeds on another day, beside other work
_FIRST_REQUEST_TOKENS = 8_000  # of an architect's review, before it has read anything


@dataclass(frozen=True)
class Throughput:
    """Stated speeds, in all (not a chip): tokens a second; 0: not stated.

    Attributes:
      prefill, decode, training: tokens a second. call_s: seconds of one answer of a server. chips: that
        the in-process model and training take, for accelerator hours.
    """

    prefill: float = 0.0
    decode: float = 0.0
    training: float = 0.0
    call_s: float = 0.0
    chips: int = 0


@dataclass(frozen=True)
class Forecast:
    """Rows by stage, named as timing.json names them, their sum, and what they rest on."""

    rows: dict[str, Amounts]
    total: Amounts
    assumptions: tuple[str, ...]
    config_hash: str
    chips: int = 0


def forecast(
    config: ExperimentConfig,
    groups: Groups,
    speed: Throughput | None = None,
    *,
    recipes: bool = False,
) -> Forecast:
    """What `automem pipeline` with this config will take, and selecting and training by signals where
    `selection.kind` names them; with `recipes` the recipe search too.

    Raises:
      ConfigError: the price file cannot be read, or lacks the model.
      ValueError: no episode of the base model was recorded.
    """
    return _Forecaster(config, groups, speed or Throughput()).run(recipes)


class _Forecaster:
    def __init__(self, config: ExperimentConfig, groups: Groups, speed: Throughput):
        self.config, self.groups, self.speed = config, groups, speed
        self.local = config.policy.kind == "local"
        self.assumptions: list[str] = [f"recorded: {groups.source}"]
        prices = load_prices(config.policy.prices, (config.policy.model,))
        self.price = prices.get(config.policy.model)
        self.own_speed = self.local and groups.model == config.model.source

    def run(self, recipes: bool) -> Forecast:
        sets = {name: len(seeds) for name, seeds in seed_sets(self.config.seeds).items()}
        memory = self.config.agent.kind == "memory"
        rows: dict[str, Amounts] = {}
        if memory:
            rows["evolve"] = self._evolve()
            rows["rollout collect"] = self._play(BASE, sets["collect"])
            for kind in dict.fromkeys(("lineage", "random", self.config.selection.kind)):
                rows[f"select {kind}"] = self._select(sets["collect"], kind)
                rows[f"train {kind}"] = self._train(sets["collect"])
            if self.config.online.rounds:
                rows["online"] = self._online()
            if recipes:
                rows["recipes"] = self._recipes(sets)
        rows["evaluate"] = self._evaluate(sets["heldout"])
        self._note()
        total = _total(rows.values())
        assumptions = tuple(dict.fromkeys(self.assumptions))
        return Forecast(rows, total, assumptions, config_hash(self.config), self.speed.chips)

    # Episodes

    def _play(self, role: str, count: Range | float) -> Amounts:
        """So many episodes of the agent."""
        group, factor, likeness = self._group(role)
        steps = self._steps(group, likeness) * count
        calls = steps * self._a_step(group, "calls", likeness) * factor
        prompt = steps * self._a_step(group, "prompt", likeness) * factor
        if group.scripted:
            prompt = prompt / CHARACTERS_A_TOKEN
            generated = calls * self._answer(group)
        else:
            generated = steps * self._a_step(group, "generated", likeness) * factor
        if self.local:  # prompts are cut to what the model can read
            room = self.config.model.max_context
            prompt = _each(lambda p, c: min(p, c * room), prompt, calls)
        return self._priced(
            Amounts(
                episodes=Range.of(count),
                calls=calls,
                prompt_tokens=prompt,
                generated_tokens=generated,
            )
        )

    def _group(self, role: str) -> tuple[Group, Range | float, float]:
        found = self.groups.find(self.config, role)
        base = self.groups.find(self.config, BASE)
        if base is None:
            raise ValueError(
                f"{self.groups.source}: no episode of the base model there; play some with "
                "`automem rollout --adapter=none`"
            )
        factor: Range | float = 1.0
        if role != BASE and (found is None or found[1] > base[1]):
            found, factor = base, _SPECIALIST
            self.assumptions.append(
                "no specialist was recorded on this task: it is taken to write 0.8 to 3 times what the "
                "base writes"
            )
        group, likeness = found or base
        self._describe(group)
        return group, factor, likeness

    def _describe(self, group: Group) -> None:
        who = "a script" if group.scripted else "a model"
        same = (group.env, group.task) == (self.config.env.name, self.config.env.task)
        other = "" if same else f"; this config plays {self.config.env.task}"
        self.assumptions.append(
            f"episodes: {group.episodes} of {group.template} on {group.task}, played by {who}{other}"
        )

    def _steps(self, group: Group, likeness: float) -> Range:
        cap = self.config.env.max_steps or group.max_steps or math.inf
        recorded = group.mean("steps", likeness)
        if not group.scripted or math.isinf(cap):
            return recorded.at_most(cap)
        return between(min(recorded.low, cap), cap)

    def _a_step(self, group: Group, name: str, likeness: float) -> Range:
        """Mean a step, which varies less than the length of episodes does."""
        mean = getattr(group, name)[0] / max(1.0, group.steps[0])
        return Range.of(mean).wider(likeness)

    def _answer(self, group: Group) -> Range:
        """Tokens of an answer, where a script gave it."""
        answer = group.generated[0] / max(1.0, group.calls[0]) / CHARACTERS_A_TOKEN.expected
        cap = self.config.sampling.max_tokens
        told = between(min(answer, cap), cap)
        self.assumptions.append(
            f"answers: {told.low:.0f} to {told.high:.0f} tokens, between a script's and "
            f"sampling.max_tokens = {cap}"
        )
        return told

    def _priced(self, amounts: Amounts) -> Amounts:
        """With dollars, seconds and accelerator hours."""
        prompt, generated = amounts.prompt_tokens, amounts.generated_tokens
        dollars = seconds = None
        if self.local:
            dollars = Range.of(0.0)
            if self.speed.prefill and self.speed.decode:
                fresh = _each(lambda p, share: p * (1 - share), prompt, _REUSED)
                seconds = fresh * (1 / self.speed.prefill) + generated * (1 / self.speed.decode)
            elif self.own_speed and self.groups.tokens_per_s:
                rate = Range.of(self.groups.tokens_per_s).wider(_SPEED)
                seconds = (prompt + generated) / rate
        else:
            if self.price is not None:
                cost = self.price.cost_usd
                dollars = _each(lambda p, g, s: cost(p, g, p * s), prompt, generated, _REUSED)
            if self.speed.call_s:
                beside = min(self.config.policy.concurrency, self.config.env.slots)
                seconds = amounts.calls * (self.speed.call_s / beside)
        return amounts + Amounts(
            dollars=dollars,
            seconds=seconds,
            accelerator_hours=self._hours(seconds) if self.local else None,
        )

    def _hours(self, seconds: Range | None) -> Range | None:
        if not self.speed.chips:
            return Range.of(0.0) if self.own_speed else None  # recorded on a CPU
        return None if seconds is None else seconds * (self.speed.chips / 3600)

    # Stages

    def _evolve(self) -> Amounts:
        config = self.config
        prompt = _FIRST_REQUEST_TOKENS if config.architect.kind == "api" else 0
        told = forecast_evolution(config, prompt)
        least, middle, most = told.least, told.middle, told.most
        played = self._play(BASE, _range(least.episodes, middle.episodes, most.episodes))
        if config.architect.kind != "api":
            return played
        known = model_price(config.architect) is not None
        if not known:
            self.assumptions.append(
                "the architect's price is not known: set architect.price or architect.api.prices"
            )
        self.assumptions.append("time leaves out the architect's own answers")
        asked = Amounts(
            calls=_range(least.calls, middle.calls, most.calls),
            prompt_tokens=_range(least.prompt_tokens, middle.prompt_tokens, most.prompt_tokens),
            generated_tokens=_range(
                least.completion_tokens, middle.completion_tokens, most.completion_tokens
            ),
            dollars=_range(least.dollars, middle.dollars, most.dollars) if known else None,
        )
        both = played + asked
        return both if known else dataclasses.replace(both, dollars=None)

    def _select(self, episodes: float, kind: str) -> Amounts:
        """Reading traces; for signals, the branches and the judge that their weights ask for."""
        group, _, likeness = self._group(BASE)
        steps = self._steps(group, likeness)
        total = Amounts(seconds=steps * episodes * _SELECT_S)
        settings = self.config.selection
        if kind != "signals":
            return total
        decisions = group.mean("memory_turns", likeness) * episodes
        if settings.weights.counterfactual:
            branching = settings.counterfactual
            sides = decisions.at_most(branching.decisions) * 2 * branching.continuations
            share = _REMAINING
            if branching.horizon:
                share = _each(lambda s, r: min(r, branching.horizon / s), steps, share)
            played = self._play(BASE, sides * share)  # from a decision to the end of its episode
            if branching.max_calls and played.calls.expected > branching.max_calls:
                factor = branching.max_calls / played.calls.expected
                played = self._play(BASE, (sides * share) * factor)
            total += dataclasses.replace(played, episodes=None)
        if settings.weights.judge:
            judged = self._judge(decisions.at_most(settings.judge.decisions), group, likeness)
            unpriced = {"dollars": None} if judged.dollars is None else {}
            total = dataclasses.replace(total + judged, **unpriced)
        return total

    def _judge(self, decisions: Range, group: Group, likeness: float) -> Amounts:
        """Ratings by an API model; each is told the decision's prompt and what followed."""
        settings = self.config.selection.judge
        calls = decisions * (1.0 / settings.batch)
        prompt = decisions * self._call_tokens(group, likeness) * _JUDGED + calls * _CRITERIA_TOKENS
        answers = decisions * _RATING_TOKENS
        price = load_prices(settings.api.prices, (settings.api.model,)).get(settings.api.model)
        dollars = None
        if price is None:
            self.assumptions.append(
                "the judge's price is not known: set selection.judge.api.prices"
            )
        else:
            dollars = _each(price.cost_usd, prompt, answers)
        return Amounts(calls=calls, prompt_tokens=prompt, generated_tokens=answers, dollars=dollars)

    def _call_tokens(self, group: Group, likeness: float) -> Range:
        """Tokens of a prompt and its answer."""
        tokens = Range.of((group.prompt[0] + group.generated[0]) / max(1.0, group.calls[0]))
        tokens = tokens.wider(likeness)
        return tokens / CHARACTERS_A_TOKEN if group.scripted else tokens

    def _recipes(self, sets: dict[str, int]) -> Amounts:
        """The recipe search: its trainings, halved from rung to rung, and its gates."""
        from automem_jax.recipes.search import HALVING, rung_epochs  # brings JAX

        settings, own = self.config.recipes, self.config.training
        epochs = sum(
            math.ceil(settings.proposals / HALVING**rung)
            * rung_epochs(own.epochs, rung + 1, settings.rungs)
            for rung in range(settings.rungs)
        )
        trainings = Range(0.5, 1.0, 2.0) * (settings.iterations * epochs / own.epochs)
        most = settings.iterations * settings.survivors * sets["gate"]
        self.assumptions.append(
            "recipes: trainings of half to twice the experiment's own size; an API proposer's and "
            "regenerated data's cost are left out"
        )
        return self._play(SPECIALIST, most) + self._trainings(sets["collect"], trainings)

    def _items(self, episodes: float, group: Group, likeness: float) -> Range:
        """Decisions that a selection keeps."""
        settings = self.config.selection
        share = self.groups.selected_share
        kept = Range.of(share).wider(likeness) if share and likeness < 3 else _SELECTED
        turns = group.mean("memory_turns", likeness) * episodes
        return (turns * kept).at_most(
            min(settings.max_examples, settings.max_per_episode * episodes)
        )

    def _train(self, episodes: float) -> Amounts:
        """A training on what is selected from so many episodes."""
        config = self.config.training
        group, _, likeness = self._group(BASE)
        items = self._items(episodes, group, likeness)
        tokens = self._call_tokens(group, likeness)
        rows = items * tokens.at_most(config.row_tokens) * (1.0 / config.row_tokens)
        size = _FILL * config.batch_rows
        steps = _each(lambda n: math.ceil(max(n, 1e-9) * config.epochs / size), rows)
        trained = steps * (config.batch_rows * config.row_tokens)
        seconds = None
        if self.speed.training:
            seconds = trained * (1 / self.speed.training)
        elif self.own_speed and self.groups.train_tokens_per_s:
            seconds = trained / Range.of(self.groups.train_tokens_per_s).wider(_SPEED)
        return Amounts(
            trained_tokens=trained, seconds=seconds, accelerator_hours=self._hours(seconds)
        )

    def _online(self) -> Amounts:
        settings = self.config.online
        rounds = Range(1, settings.rounds, settings.rounds)  # a round that drifts off ends them
        played = self._play(SPECIALIST, rounds * settings.episodes)
        return played + self._trainings(settings.episodes, rounds)

    def _trainings(self, episodes: float, times: Range) -> Amounts:
        """So many times a training on what is selected from `episodes`."""
        one = self._train(episodes)
        names = ("trained_tokens", "seconds", "accelerator_hours")
        return Amounts(**{n: v * times for n in names if (v := getattr(one, n)) is not None})

    def _evaluate(self, heldout: int) -> Amounts:
        config, total = self.config, Amounts()
        memory = config.agent.kind == "memory"
        for arm in config.evaluation.arms if memory else ():
            role = {"base": BASE, "control": CONTROL}.get(arm.partition("_")[0], SPECIALIST)
            total += self._play(role, heldout)
        own = () if memory else (config.agent.kind,)
        for _ in dict.fromkeys((*own, *config.evaluation.baselines)):
            self.assumptions.append("baselines without memory: taken to cost what the base costs")
            total += self._play(BASE, heldout)
        return total

    def _note(self) -> None:
        """What was not stated and would have told more."""
        if not self.local and self.price is None:
            self.assumptions.append("no price of the agent's model is known: set policy.prices")
        if not self.local and not self.speed.call_s:
            self.assumptions.append("how long a server's answer takes is not stated: --call_s")
        if self.local and not (self.speed.prefill and self.speed.decode):
            if self.own_speed and self.groups.tokens_per_s:
                self.assumptions.append(
                    f"speed: {self.groups.tokens_per_s:,.0f} tokens/s, recorded with {self.groups.model!r}"
                )
            else:
                self.assumptions.append(
                    "speeds are not stated: --prefill, --decode (tokens/s in all)"
                )
        if not self.speed.training and not (self.own_speed and self.groups.train_tokens_per_s):
            self.assumptions.append("training's speed is not stated: --training (tokens/s in all)")
        if self.speed.chips == 0 and self.local and not self.own_speed:
            self.assumptions.append("accelerator hours need the number of chips: --chips")


def _total(rows: Iterable[Amounts]) -> Amounts:
    """The sum; an amount that a stage must take and that is not known there is not known in all."""
    rows = list(rows)
    total = sum(rows[1:], rows[0])
    played = [row for row in rows if row.calls is not None]
    worked = [row for row in rows if row.calls is not None or row.trained_tokens is not None]
    unknown = {}
    for name, of in (("dollars", played), ("seconds", worked), ("accelerator_hours", worked)):
        if any(getattr(row, name) is None for row in of):
            unknown[name] = None
    return dataclasses.replace(total, **unknown)


def _each(function: Callable[..., float], *ranges: Range) -> Range:
    """The function of all low ends, of the expected values, of the high ends."""
    ends = ("low", "expected", "high")
    return Range(*(function(*(getattr(r, end) for r in ranges)) for end in ends))


def _range(low: float, expected: float, high: float) -> Range:
    ordered = sorted((low, expected, high))
    return Range(*map(float, ordered))
