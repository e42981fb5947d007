"""From trace directories to results: every episode, means, intervals, differences, behaviour.

A failed episode counts at the progression it reached, and is listed as failed: a scaffold cannot
score higher by crashing.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automem_jax.evaluation.metrics import BehaviourCounter, CueCounter, CueProbe, probe_for
from automem_jax.evaluation.statistics import paired_difference, summarise_scores
from automem_jax.traces.schema import Step, Trace
from automem_jax.traces.store import iter_traces

RESULTS_SCHEMA = 1


class ResultsError(ValueError):
    """Traces cannot be summarised; the message names the arm and the mend."""


@dataclass(frozen=True)
class EpisodeResult:
    """One episode as results list it.

    Attributes:
      episode, task, seed: identity; (task, seed) pairs episodes across arms.
      progression: highest reached, in [0, 1], also where the episode failed.
      episode_return: sum of rewards.
      steps: environment steps.
      end_reason, failed, error: how it ended.
      tokens: prompt, completion and calls.
      actions: how often each action was taken.
      failed_calls: model calls that failed after all retries.
      fallbacks: steps whose action was the environment's fallback, by cause: "failed call" (the model's
        server or the prompt's length), "no action" written, or "unknown action".
    """

    episode: str
    task: str
    seed: int
    progression: float
    episode_return: float
    steps: int
    end_reason: str | None
    failed: bool
    error: str | None
    tokens: dict[str, int]
    actions: dict[str, int]
    failed_calls: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)


def episode_result(trace: Trace) -> EpisodeResult:
    """The result of one episode; one without an end record counts as failed where it stopped."""
    header, end = trace.header, trace.end
    rewards = [step.percept["reward"] for step in trace.steps[1:]]
    if end is None:
        last = trace.steps[-1].percept if trace.steps else {}
        end = {
            "progression": last.get("progression", 0.0),
            "steps": len(trace.steps),
            "end_reason": "cut off",
            "failed": True,
            "error": "the trace has no end record",
            "tokens": {},
        }
    final = end.get("percept") or {}
    return EpisodeResult(
        episode=header["episode"],
        task=header.get("task", ""),
        seed=int(header["seed"]),
        progression=float(end["progression"]),
        episode_return=float(sum(rewards) + (final.get("reward") or 0.0)),
        steps=int(end["steps"]),
        end_reason=end["end_reason"],
        failed=bool(end["failed"]),
        error=end.get("error"),
        tokens={k: int(end["tokens"].get(k, 0)) for k in ("prompt", "completion", "calls")},
        actions=dict(Counter(step.action for step in trace.steps).most_common()),
        failed_calls=sum(
            turn.completion.error is not None
            for step in trace.steps
            for phase in step.phases
            for turn in phase.turns
        ),
        fallbacks=dict(
            Counter(
                fallback_cause(step) for step in trace.steps if step.action_source == "fallback"
            ).most_common()
        ),
    )


def fallback_cause(step: Step) -> str:
    """Why the environment's fallback action was taken in this step; step.errors has the words."""
    last = step.phases[-1].turns[-1] if step.phases and step.phases[-1].turns else None
    if last is not None and last.completion.error is not None:
        return "failed call"
    return "no action" if step.proposed is None else "unknown action"


def summarise(
    arms: Mapping[str, str | os.PathLike],
    *,
    comparisons: Sequence[tuple[str, str]] | None = None,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
    probe: CueProbe | None = None,
    base_hash: str = "",
    expected: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Reads each arm's traces once and returns the results as JSON-ready values.

    Args:
      arms: arm name to its directory of traces.
      comparisons: (arm, baseline) pairs to compare seed by seed; unless given, every arm against
        each arm named before it.
      confidence, samples, seed: of the bootstrap intervals.
      probe: cue probe; unless given, the one known for the task, if any.
      base_hash: hash of the base weights; unless given, taken from the traces' policy.
      expected: seeds an arm must have been run on. A seed without a trace is an error; traces of
        other seeds (left by a run over more of them) do not count.

    Raises:
      ResultsError: an arm has no traces, lacks an expected seed, or holds a seed twice (a seed of
        several tasks too, where `expected` names seeds alone).
    """
    table: dict[str, Any] = {}
    scores: dict[str, dict[tuple[str, int], float]] = {}
    for name, directory in arms.items():
        wanted = None if expected is None else expected.get(name)
        arm = _summarise_arm(name, Path(directory), probe, wanted)
        episodes = arm["episodes"]
        scores[name] = {(e["task"], e["seed"]): e["progression"] for e in episodes}
        summary = summarise_scores(
            [e["progression"] for e in episodes],
            confidence=confidence,
            samples=samples,
            seed=seed,
        )
        table[name] = {**dataclasses.asdict(summary), **arm}
    if comparisons is None:
        names = list(arms)
        comparisons = [(b, a) for i, b in enumerate(names) for a in names[:i]]
    differences = []
    for arm, baseline in comparisons:
        for name in (arm, baseline):
            if name not in scores:
                raise ResultsError(f"comparison names arm {name!r}; arms are {', '.join(scores)}")
        if not scores[arm].keys() & scores[baseline].keys():
            raise ResultsError(f"arms {arm!r} and {baseline!r} share no seed to be compared on")
        difference = paired_difference(
            scores[arm], scores[baseline], confidence=confidence, samples=samples, seed=seed
        )
        differences.append({"arm": arm, "baseline": baseline, **dataclasses.asdict(difference)})
    hashes = {arm["policy"].get("base_hash") for arm in table.values()} - {None, ""}
    return {
        "schema": RESULTS_SCHEMA,
        "base_hash": base_hash or ", ".join(sorted(hashes)),
        "confidence": confidence,
        "bootstrap_samples": samples,
        "bootstrap_seed": seed,
        "arms": table,
        "paired_differences": differences,
    }


def _summarise_arm(
    name: str, directory: Path, probe: CueProbe | None, expected: Sequence[int] | None
) -> dict[str, Any]:
    episodes: dict[tuple[str, int], EpisodeResult] = {}
    behaviour = BehaviourCounter()
    cue: CueCounter | None = None
    header: dict[str, Any] = {}
    for path, trace in iter_traces(directory):
        result = episode_result(trace)
        if expected is not None and result.seed not in expected:
            continue
        if expected is not None and header and header.get("task", "") != result.task:
            raise ResultsError(
                f"arm {name!r}: {directory} holds traces of {header.get('task', '')!r} and "
                f"{result.task!r}; use another --workdir or move the old ones away"
            )
        if not header:
            header = trace.header
            chosen = probe or probe_for(result.task)
            cue = CueCounter(chosen) if chosen else None
        key = (result.task, result.seed)
        if key in episodes:
            raise ResultsError(
                f"arm {name!r}: {path} repeats seed {result.seed} of {result.task!r}; "
                f"keep one trace a seed in {directory}"
            )
        episodes[key] = result
        behaviour.add(trace)
        if cue:
            cue.add(trace)
    if expected is not None:
        missing = sorted(set(expected) - {seed for _, seed in episodes})
        if missing:
            raise ResultsError(
                f"arm {name!r}: {len(missing)} of {len(expected)} seeds have no trace in {directory} "
                f"(first {missing[0]}); run the arm again to finish them"
            )
    if not episodes:
        raise ResultsError(f"arm {name!r}: no traces in {directory}; run the arm first")
    ordered = [episodes[key] for key in sorted(episodes)]
    return {
        "env": header.get("env", ""),
        "template": header.get("template", {}),
        "policy": header.get("policy", {}),
        "failed": [e.seed for e in ordered if e.failed],
        "failed_calls": sum(e.failed_calls for e in ordered),
        "fallbacks": dict(sum((Counter(e.fallbacks) for e in ordered), Counter()).most_common()),
        "end_reasons": dict(Counter(e.end_reason or "" for e in ordered).most_common()),
        "mean_steps": sum(e.steps for e in ordered) / len(ordered),
        "tokens": {
            kind: sum(e.tokens[kind] for e in ordered) for kind in ("prompt", "completion", "calls")
        },
        "behaviour": behaviour.result(),
        "cue": cue.result() if cue else None,
        "episodes": [dataclasses.asdict(e) for e in ordered],
    }
