"""How signals are put together: gates first, then a weighted vote.

A gate stops a decision whatever its worth: what cannot be trained on (clean-up, failed operations)
always; idle, redundant and contradicted where `selection.gates` names them.

Lines that are contradicted are worth what such lines are worth, not what true ones of the same words
are. Each signal then votes between -1 and 1:

  lineage         credit / spread, where it is above chance by the rule of credit.py; else 0
  followed        value / spread (consequences.py)
  avoided_repeat  value (consequences.py)
  outcome         progression less the mean of the task's other episodes / spread
  novelty         share that is new, 0.5 taken off
  counterfactual  the end of its interval that lies nearer to 0, / scale; 0 where the interval holds 0
  judge           rating from 0 to 1, put on -1 to 1
  surprise        1 for the middle of its phase's, -1 from three deviations on (median, MAD): what is
                  too likely teaches nothing, what is too unlikely is noise

`spread` is the 95th percentile of the task's |values|, so a vote does not depend on the scale of
progression; `scale` the task's largest measured difference.

    score = sum of weight * vote / sum of weight, over the signals that the decision has

Signals that cost money or time and have a weight are required: a decision without its counterfactual or
its rating is "unmeasured". And what was measured overrules what was inferred: a decision whose
counterfactual is not clearly above 0 is rejected whatever the others say ("no_effect").
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.config import SelectionConfig, SignalWeights
from automem_jax.selection.consequences import Consequences
from automem_jax.selection.credit import Credit, CreditTable
from automem_jax.selection.effects import Effect, effect, effect_scale
from automem_jax.selection.signals import Decision, EpisodeSignals

REQUIRED = ("counterfactual", "judge")
_SPREAD_QUANTILE = 0.95

# (episode, t, phase, turn) -> row of a measured table
Measured = Mapping[tuple[str, int, str, int], Mapping[str, Any]]


@dataclass(slots=True)
class Scored:
    """A decision with all that is known of it.

    Attributes:
      values: signal -> raw value; what the decision lacks is not in it.
      votes: signal -> vote, of those with a weight.
      score: of the votes; None where there is none.
      reason: why it is not to be kept, or None.
      credit: lineage's, with the group it rests on. effect: the counterfactual's.
      worse: what the policy said when it was asked again and did worse with, where that was measured.
    """

    episode: EpisodeSignals
    decision: Decision
    values: dict[str, float]
    credit: Credit
    effect: Effect | None = None
    worse: tuple[str, ...] = ()
    votes: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    reason: str | None = None

    @property
    def name(self) -> tuple[str, int, str, int]:
        """As rows of measured tables are named."""
        key = self.decision.key
        return self.episode.lineage.episode, key.t, key.phase, key.turn


def score_decisions(
    episodes: Sequence[EpisodeSignals],
    config: SelectionConfig,
    counterfactual: Measured | None = None,
    ratings: Measured | None = None,
) -> list[Scored]:
    """All decisions of all episodes, scored; in the order of the episodes.

    Args:
      counterfactual: rows of rollout.branching. ratings: rows of selection.judge ("rating" in 0..1).
    """
    words: dict[str, set[str]] = defaultdict(set)
    for episode in episodes:
        words[episode.lineage.task] |= episode.words - episode.told
    for episode in episodes:
        _mark_untrue(episode, words[episode.lineage.task])
    table = CreditTable(episode.lineage for episode in episodes)
    consequences = Consequences(episodes)
    scored: list[Scored] = []
    for episode in episodes:
        own = table.own(episode.lineage)
        for decision, (followed, avoided) in zip(
            episode.decisions, consequences.measure(episode), strict=True
        ):
            credit = table.decision(episode.lineage, decision)
            values = {"lineage": _above_chance(credit, config), "followed": followed}
            for name, value in (
                ("avoided_repeat", avoided),
                ("outcome", own),
                ("novelty", decision.novelty),
                ("surprise", decision.surprise),
            ):
                if value is not None:
                    values[name] = value
            one = Scored(episode, decision, values, credit)
            one.reason = decision.reason or _gate(decision, words[episode.lineage.task], config)
            scored.append(one)
    _add_effects(scored, counterfactual or {}, config.counterfactual.confidence)
    for one in scored:
        row = (ratings or {}).get(one.name)
        if row is not None and row.get("rating") is not None:
            one.values["judge"] = float(row["rating"])
    _vote(scored, config)
    return scored


def priorities(
    scored: Sequence[Scored], config: SelectionConfig, count: int, explore: float
) -> list[Scored]:
    """Which decisions to spend measurements on: those that no gate stops, the best by what followed them
    first (lineage, followed and avoided_repeat with their usual weights, whatever the config's are, then
    credit that may be chance); every so often (a share of `explore`) the next of a random order instead."""
    weights = SignalWeights()
    open_ = [one for one in scored if one.decision.reason is None and _is_open(one)]
    spread = _spreads(scored)
    value = {
        id(one): (_score(_votes(one, weights, spread), weights) or 0.0, one.credit.value)
        for one in open_
    }
    source = random.Random(config.seed)
    by_chance = list(open_)
    source.shuffle(by_chance)
    place = {id(one): n for n, one in enumerate(by_chance)}
    order = sorted(open_, key=lambda one: place[id(one)])
    best = sorted(order, key=lambda one: value[id(one)], reverse=True)
    taken: dict[int, Scored] = {}
    sources = {False: iter(best), True: iter(by_chance)}
    while len(taken) < min(count, len(open_)):
        one = next(o for o in sources[source.random() < explore] if id(o) not in taken)
        taken[id(one)] = one
    return list(taken.values())


def agreement(scored: Iterable[Scored], name: str) -> dict[str, float]:
    """Spearman's rank correlation of a signal with each other one, over the decisions that have both."""
    scored = [one for one in scored if name in one.values]
    found = {}
    for other in sorted({n for one in scored for n in one.values} - {name}):
        pairs = [(o.values[name], o.values[other]) for o in scored if other in o.values]
        left, right = (_ranks(side) for side in zip(*pairs, strict=True))
        if len(set(left)) > 1 and len(set(right)) > 1:
            found[other] = round(statistics.correlation(left, right), 4)
    return found


def _mark_untrue(episode: EpisodeSignals, task_words: set[str]) -> None:
    """Sets lines that the observation denies apart: the same words are worth something where true."""
    for decision in episode.decisions:
        untrue = decision.denied or bool(decision.unseen & task_words)
        for line in decision.wrote:
            if line in episode.lineage.lines:
                episode.lineage.lines[line].mark = " (not observed)" if untrue else ""


def _is_open(one: Scored) -> bool:
    return one.reason is None or one.reason in ("unmeasured", "no_effect", "below_min_score")


def _above_chance(credit: Credit, config: SelectionConfig) -> float:
    if credit.reason is not None or credit.may_be_chance(config.min_standard_errors):
        return 0.0
    return credit.value


def _gate(decision: Decision, task_words: set[str], config: SelectionConfig) -> str | None:
    if "idle" in config.gates and decision.idle is not None:
        return decision.idle
    if "redundant" in config.gates and decision.novelty == 0.0:
        return "redundant"
    if "contradicted" in config.gates:
        if decision.denied:
            return "contradicted"
        if decision.unseen & task_words:
            return "not_observed"
    return None


def _add_effects(scored: Sequence[Scored], rows: Measured, confidence: float) -> None:
    found: dict[str, list[tuple[Scored, Mapping[str, Any]]]] = defaultdict(list)
    for one in scored:
        row = rows.get(one.name)
        if row is not None and row["as_was"]:
            found[one.episode.lineage.task].append((one, row))
    for of_task in found.values():
        scale = effect_scale([(row["as_was"], row["altered"]) for _, row in of_task])
        for one, row in of_task:
            one.effect = effect(row["as_was"], row["altered"], scale=scale, confidence=confidence)
            one.values["counterfactual"] = one.effect.value
            pairs = zip(row.get("answers", ()), row["as_was"], row["altered"], strict=False)
            one.worse = tuple(text for text, as_was, altered in pairs if altered < as_was)


def _vote(scored: Sequence[Scored], config: SelectionConfig) -> None:
    spread = _spreads(scored)
    weights = dataclasses.asdict(config.weights)
    required = [name for name in REQUIRED if weights[name] > 0]
    for one in scored:
        one.votes = _votes(one, config.weights, spread)
        one.score = _score(one.votes, config.weights)
        if one.reason is not None:
            continue
        if any(name not in one.values for name in required):
            one.reason = "unmeasured"
        elif weights["counterfactual"] > 0 and one.effect.low <= 0:
            one.reason = "no_effect"
        elif one.score is None or one.score < config.min_score:
            one.reason = "below_min_score"


def _votes(one: Scored, weights: Any, spread: Mapping[tuple[str, str], Any]) -> dict[str, float]:
    task, phase = one.episode.lineage.task, one.decision.key.phase
    votes = {}
    for name, weight in dataclasses.asdict(weights).items():
        if weight <= 0 or name not in one.values:
            continue
        value = one.values[name]
        if name == "counterfactual":
            effect_ = one.effect
            nearer = effect_.low if effect_.value > 0 else effect_.high
            value = nearer / spread[task, name] if effect_.is_clear else 0.0
        elif name == "surprise":
            middle, deviation = spread[f"{task} {phase}", name]
            value = 1 - 2 * min(1.0, abs(value - middle) / (3 * deviation))
        elif name == "judge":
            value = 2 * value - 1
        elif name == "novelty":
            value -= 0.5
        elif name != "avoided_repeat":
            value /= spread[task, name]
        votes[name] = min(1.0, max(-1.0, value))
    return votes


def _score(votes: Mapping[str, float], weights: Any) -> float | None:
    total = sum(getattr(weights, name) for name in votes)
    if not total:
        return None
    return sum(getattr(weights, name) * vote for name, vote in votes.items()) / total


def _spreads(scored: Sequence[Scored]) -> dict[tuple[str, str], Any]:
    """By (task, signal): the 95th percentile of |value|; for surprise, by (task phase, signal): median
    and deviation; for the counterfactual the largest |value|."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in scored:
        task, phase = one.episode.lineage.task, one.decision.key.phase
        for name, value in one.values.items():
            place = f"{task} {phase}" if name == "surprise" else task
            values[place, name].append(value)
    found: dict[tuple[str, str], Any] = {}
    for key, all_ in values.items():
        if key[1] == "surprise":
            middle = statistics.median(all_)
            deviation = 1.4826 * statistics.median(abs(v - middle) for v in all_)
            found[key] = middle, max(deviation, 1e-3)
            continue
        sizes = sorted(abs(v) for v in all_ if v)
        place = -1 if key[1] == "counterfactual" else int(_SPREAD_QUANTILE * (len(sizes) - 1))
        found[key] = sizes[place] if sizes else 1.0
    return found


def _ranks(values: Sequence[float]) -> list[float]:
    """Mean ranks; equal values share theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + stop - 1) / 2
        start = stop
    return ranks
