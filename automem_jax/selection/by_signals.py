"""Selection by signals: scan -> score -> choose, and the table of everything that is known."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from automem_jax.config import SelectionConfig
from automem_jax.selection.balance import choose
from automem_jax.selection.cleanup import clean_turn
from automem_jax.selection.combine import Scored, agreement, score_decisions
from automem_jax.selection.lineage import TurnKey
from automem_jax.selection.signals import EpisodeSignals
from automem_jax.traces.measured import read_measured

TABLE_FILE = "signals.jsonl"
_SHOWN_PER_REASON = 3
_SHOWN_CHARS = 400


def score(
    episodes: Sequence[EpisodeSignals],
    config: SelectionConfig,
    counterfactual: str | Path | None = None,
    ratings: str | Path | None = None,
) -> list[Scored]:
    """All decisions, scored with what was measured so far.

    Args:
      counterfactual, ratings: tables of rollout.branching and of selection.judge; None for none. Rows
        whose reply is not the trace's any more are left out.
    """
    return score_decisions(
        episodes,
        config,
        _rows(episodes, counterfactual, {"alteration": config.counterfactual.alteration}),
        _rows(episodes, ratings, {}),
    )


def text_hash(text: str) -> str:
    """SHA-256 of a verbatim text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def pick(
    scored: Sequence[Scored], config: SelectionConfig, rejected: Counter[str]
) -> tuple[list[Scored], dict[str, Any]]:
    """What is kept, and the report's details: coverage of prompt shapes, concentration, signals,
    agreement of what was measured with the rest, examples of what was rejected."""
    kept = choose(scored, config, rejected)
    return kept, _details(scored, kept)


def table_rows(scored: Sequence[Scored], kept: Sequence[Scored], out: Path) -> Iterator[str]:
    """The table's lines: provenance, raw values, votes, score and verdict of every decision."""
    chosen = {id(one) for one in kept}
    relative: dict[str, str] = {}
    for one in scored:
        lineage, decision = one.episode.lineage, one.decision
        trace = relative.setdefault(lineage.trace, os.path.relpath(lineage.trace, out))
        row: dict[str, Any] = {
            "trace": trace,
            "episode": lineage.episode,
            "seed": lineage.seed,
            "task": lineage.task,
            "t": decision.key.t,
            "phase": decision.key.phase,
            "turn": decision.key.turn,
            "sha256": text_hash(decision.verbatim),
            "operations": list(decision.operations),
            "shape": decision.shape,
            "values": _rounded(one.values),
            "votes": _rounded(one.votes),
            "score": None if one.score is None else round(one.score, 6),
            "kept": id(one) in chosen,
            "reason": one.reason,
        }
        if one.effect is not None:
            row["effect"] = _rounded(dataclasses.asdict(one.effect))
        yield json.dumps(row, separators=(",", ":"))


def example_signals(one: Scored) -> dict[str, Any]:
    """What an example says of why it was chosen."""
    lineage, decision, credit = one.episode.lineage, one.decision, one.credit
    signals: dict[str, Any] = {
        "operations": list(decision.operations),
        "progression": lineage.progression,
        "success_step": lineage.success_step,
        "wrote": list(decision.wrote),
        "read": list(decision.read),
        "shape": decision.shape,
        "score": round(one.score, 6),
        "votes": _rounded(one.votes),
    } | _rounded(one.values)
    if credit.group:
        signals |= {"group": credit.group, "line": credit.line}
    if one.effect is not None:
        signals["effect"] = _rounded(dataclasses.asdict(one.effect))
    cleaned = [clean_turn(text, lineage.vocabulary) for text in one.worse]
    worse = [{"text": c.text, "spans": list(c.spans)} for c in cleaned if c.reason is None]
    return signals | ({"worse": worse} if worse else {})


def _rows(
    episodes: Sequence[EpisodeSignals], path: str | Path | None, wanted: Mapping[str, Any]
) -> dict[tuple[str, int, str, int], Mapping[str, Any]]:
    if path is None:
        return {}
    texts = {
        (e.lineage.episode, d.key.t, d.key.phase, d.key.turn): d.verbatim
        for e in episodes
        for d in e.decisions
    }
    rows = {}
    for row in read_measured(path):
        name = row["episode"], row["t"], row["phase"], row["turn"]
        fits = all(row.get(key, value) == value for key, value in wanted.items())
        if fits and name in texts and text_hash(texts[name]) == row["sha256"]:
            rows[name] = row
    return rows


def _details(scored: Sequence[Scored], kept: Sequence[Scored]) -> dict[str, Any]:
    values: dict[str, list[float]] = defaultdict(list)
    values_kept: dict[str, list[float]] = defaultdict(list)
    for ones, into in ((scored, values), (kept, values_kept)):
        for one in ones:
            for name, value in one.values.items():
                into[name].append(value)
    signals = {
        name: {
            "measured": len(found),
            "mean": sum(found) / len(found),
            "kept": len(values_kept[name]),
            "mean_kept": sum(values_kept[name]) / len(values_kept[name])
            if values_kept[name]
            else None,
        }
        for name, found in sorted(values.items())
    }
    shown = Rejections()
    for one in scored:
        if one.reason is not None:
            key, text = one.decision.key, one.decision.verbatim
            shown.add(one.reason, one.episode.lineage.episode, key, text, one.values)
    return {
        "shapes": coverage(
            [one.decision.shape for one in scored], [one.decision.shape for one in kept]
        ),
        "concentration": concentration([one.episode.lineage.trace for one in kept]),
        "signals": signals,
        "agreement": {
            name: agreement(scored, name) for name in ("counterfactual", "judge") if name in values
        },
        "rejected_examples": shown.examples,
    }


class Rejections:
    """The first few decisions that fell out for each reason."""

    def __init__(self) -> None:
        self.examples: dict[str, list[dict[str, Any]]] = {}

    def add(
        self, reason: str, episode: str, key: TurnKey, text: str, values: Mapping[str, Any]
    ) -> None:
        """Keeps it where its reason has few yet."""
        known = self.examples.setdefault(reason, [])
        if len(known) < _SHOWN_PER_REASON:
            place = {"trace": episode, "t": key.t, "phase": key.phase, "turn": key.turn}
            known.append(place | {"text": text[:_SHOWN_CHARS], "values": _rounded(values)})


def coverage(decisions: Iterable[str], kept: Iterable[str]) -> dict[str, dict[str, int]]:
    """Decisions and kept ones by the shapes of their prompts, most kept first."""
    seen, taken = Counter(decisions), Counter(kept)
    order = sorted(seen, key=lambda shape: (-taken[shape], shape))
    return {shape: {"decisions": seen[shape], "kept": taken[shape]} for shape in order}


def concentration(names: Sequence[str]) -> dict[str, float]:
    """How a selection is spread over episodes: the largest one's share, and the number of equally used
    ones that would be as concentrated (1 / sum of squared shares)."""
    counts = Counter(names)
    total = max(1, sum(counts.values()))
    shares = [count / total for count in counts.values()]
    return {
        "largest_episode_share": max(shares, default=0.0),
        "effective_episodes": 1 / sum(share * share for share in shares) if shares else 0.0,
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
