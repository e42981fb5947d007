"""What selection lets through when bad memory decisions are planted among the embedded model's own.

    python tools/planted_decisions.py --workdir=runs/planted [--first_seed=60000 --episodes=384]

Plays episodes of the quickstart's task in which 30 % of the memory decisions are replaced: by the wrong cue,
lines of no use, looks for what is not there. Selects from them by each signal, and prints which share of the
planted decisions is kept. Branches are played by the model alone. Finished work is kept.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags

from automem_jax.agent.template import load_template
from automem_jax.config import (
    CounterfactualConfig,
    ExperimentConfig,
    SelectionConfig,
    from_config_dict,
)
from automem_jax.evaluation.attribution import measure_decisions, only
from automem_jax.files import write_json
from automem_jax.rollout.runner import Runner
from automem_jax.selection.by_signals import score
from automem_jax.selection.combine import Scored
from automem_jax.selection.examples import scan_signals
from automem_jax.testing import PlantedPolicy
from automem_jax.text.messages import Completion, Request
from automem_jax.traces.store import read_trace

sys.path.append(str(Path(__file__).resolve().parents[1] / "configs"))
import quickstart

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", "runs/planted", "Where traces and measurements go.")
flags.DEFINE_string("template", "", "Name or path of a template; empty: the quickstart's.")
flags.DEFINE_integer("first_seed", 60_000, "First environment seed.")
flags.DEFINE_integer("episodes", 384, "How many episodes.")
flags.DEFINE_integer("decisions", 256, "How many decisions are measured by branching.")
flags.DEFINE_float("rate", 0.3, "Share of the memory decisions that are replaced.")

CUES = {"blue jelly": "lichen", "lichen": "blue jelly"}
TRIVIA = ("bars", "stairs up", "dark area", "horizontal wall")


def plant(request: Request, answer: Completion, source: random.Random) -> str | None:
    """A bad decision for the place of `answer`."""
    if request.key.phase == "plan":
        return source.choice(["<|SEARCH|>notes|dragon<|END|>", "<|READ|>notes<|END|>"])
    seen = [cue for cue in CUES if cue in request.messages[1].content.split("last:")[0]]
    lines = [f"{CUES[cue]} behind bars" for cue in seen] + [source.choice(TRIVIA)]
    return f"<|APPEND|>notes|{source.choice(lines)}<|END|><|DONE|>"


def planted_in(paths: Sequence[Path]) -> set[tuple]:
    """Names of the planted decisions: their answers were never sampled, so they have no token ids."""
    return {
        (trace.header["episode"], step.t, phase.phase, turn.index)
        for trace in map(read_trace, paths)
        for step in trace.steps
        for phase in step.phases
        for turn in phase.turns
        if turn.operations and not turn.completion.token_ids
    }


def let_through(scored: Sequence[Scored], planted: set[tuple]) -> dict[str, float]:
    """Counts: decisions kept, planted ones, those of them that are kept."""
    kept = {one.name for one in scored if one.reason is None}
    there = {one.name for one in scored} & planted
    return {
        "kept": len(kept),
        "planted": len(there),
        "planted_kept": len(kept & there),
        "share": len(kept & there) / max(1, len(there)),
    }


def report(found: Mapping[str, Mapping[str, float]]) -> None:
    """The table."""
    print(f"{'selected by':32s} kept  planted  let through")
    for name, row in found.items():
        print(
            f"{name:32s} {row['kept']:4d}  {row['planted']:7d}  {row['planted_kept']:4d} "
            f"({100 * row['share']:.1f} %)"
        )


def main(_) -> None:
    config: ExperimentConfig = from_config_dict(quickstart.get_config())
    budget = CounterfactualConfig(decisions=FLAGS.decisions, explore=0.5)
    own = SelectionConfig(kind="signals", counterfactual=budget)
    workdir, template = Path(FLAGS.workdir), load_template(FLAGS.template or config.agent.template)
    runner = Runner(config)
    policy = PlantedPolicy(runner.policy(), plant, FLAGS.rate)
    seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.episodes)
    paths = runner.run("planted", template, seeds, workdir / "traces", policy=policy).paths
    planted = planted_in(paths)
    both = dataclasses.replace(only(own, "counterfactual").weights, lineage=1.0)
    episodes = scan_signals(paths, own)
    measured = measure_decisions(
        episodes,
        only(own, "counterfactual"),
        workdir,
        branch=lambda points, how: runner.branch(template, points, how, workdir),
        make_judge=lambda: None,
    )
    selections = {
        "lineage": only(own, "lineage"),
        "counterfactual": only(own, "counterfactual"),
        "lineage and counterfactual": dataclasses.replace(own, weights=both),
        "outcome": only(own, "outcome"),
        "outcome, no gates": dataclasses.replace(only(own, "outcome"), gates=()),
    }
    found = {
        name: let_through(score(episodes, selection, measured.counterfactual), planted)
        for name, selection in selections.items()
    }
    runner.close()
    write_json(workdir / "planted.json", found)
    report(found)


if __name__ == "__main__":
    app.run(main)
