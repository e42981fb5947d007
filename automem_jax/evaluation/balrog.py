"""Results in BALROG's layout, with its summary table.

`<env>/<task>/<task>_run_NN.json` an episode, `<env>/<env>_summary.json`, `summary.json`, percentages as
there; `summary.md` holds the table. One thing differs and is marked by `standard_error_ddof`: standard
errors use N - 1 where BALROG uses N.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from automem_jax.evaluation.results import ResultsError
from automem_jax.evaluation.statistics import summarise_scores
from automem_jax.files import write_atomically, write_json

# Environments under the names that BALROG gives them.
_NAMES = {"nethack": "nle", "craftax_classic": "crafter"}

Episodes = Sequence[Mapping[str, Any]]


def export_balrog(
    results: Sequence[Mapping[str, Any]], arm: str, directory: str | os.PathLike
) -> dict[str, Any]:
    """Writes one arm, of several results together: a task or environment each, say.

    Returns:
      The content of summary.json; see `summary_table`.

    Raises:
      ResultsError: results lack the arm, or an episode is in two of them.
    """
    directory = Path(directory)
    entries = [_arm(one, arm) for one in results]
    by_env: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        env = entry["env"]
        by_env[_NAMES.get(env, env)] += entry["episodes"]
    environments = {
        env: _export_environment(directory / env, env, episodes) for env, episodes in by_env.items()
    }
    every = [e for entry in entries for e in entry["episodes"]]
    score = _percent([e["progression"] for e in every])
    summary = {
        "Final score": score["progression_percentage"],
        "standard_error": score["standard_error"],
        "standard_error_ddof": 1,
        "environments": environments,
        "total_input_tokens": sum(entry["tokens"]["prompt"] for entry in entries),
        "total_output_tokens": sum(entry["tokens"]["completion"] for entry in entries),
        "client": entries[0]["policy"],
        "agent": {"type": "automem_jax", "arm": arm, "template": entries[0]["template"]},
    }
    write_json(directory / "summary.json", summary)
    write_atomically(directory / "summary.md", summary_table(summary) + "\n")
    return summary


def summary_table(summary: Mapping[str, Any]) -> str:
    """The summary as a Markdown table: every environment, then all episodes together."""
    lines = ["| environment | episodes | progression % | ± SE |", "|---|---:|---:|---:|"]
    rows = dict(summary["environments"])
    count = sum(row["episodes_played"] for row in rows.values())
    final = {"progression_percentage": summary["Final score"], "episodes_played": count}
    rows["all episodes"] = final | {"standard_error": summary["standard_error"]}
    for name, row in rows.items():
        figures = f"{row['progression_percentage']:.2f} | {row['standard_error']:.2f}"
        lines.append(f"| {name} | {row['episodes_played']} | {figures} |")
    return "\n".join(lines)


def _arm(results: Mapping[str, Any], arm: str) -> Mapping[str, Any]:
    arms = results.get("arms", {})
    if arm not in arms:
        raise ResultsError(
            f"the results hold no arm {arm!r}; name one of {', '.join(arms) or 'none'}"
        )
    return arms[arm]


def _export_environment(directory: Path, env: str, episodes: Episodes) -> dict[str, Any]:
    """Writes an environment's files; what the overall summary says of it."""
    by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for episode in episodes:
        by_task[episode["task"]].append(episode)
    for task, played in by_task.items():
        seeds = [episode["seed"] for episode in played]
        if len(set(seeds)) < len(seeds):
            twice = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise ResultsError(
                f"seed {twice} of {task!r} is in two of the results; export one of them"
            )
        for number, episode in enumerate(sorted(played, key=lambda e: e["seed"])):
            write_json(directory / task / f"{task}_run_{number:02d}.json", _run(episode, number))
    every = _percent([e["progression"] for e in episodes])
    summary = {
        **every,
        "average_steps": sum(e["steps"] for e in episodes) / len(episodes),
        "tasks": {task: _percent([e["progression"] for e in by_task[task]]) for task in by_task},
        "input_tokens": sum(e["tokens"]["prompt"] for e in episodes),
        "output_tokens": sum(e["tokens"]["completion"] for e in episodes),
    }
    write_json(directory / f"{env}_summary.json", summary)
    return every


def _run(episode: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {
        "task": episode["task"],
        "action_frequency": episode["actions"],
        "input_tokens": episode["tokens"]["prompt"],
        "output_tokens": episode["tokens"]["completion"],
        "num_steps": episode["steps"],
        "episode_return": episode["episode_return"],
        "progression": episode["progression"],
        "done": not episode["failed"],
        "failed": episode["failed"],
        "end_reason": episode["end_reason"],
        "seed": episode["seed"],
        "process_num": number,
    }


def _percent(scores: Sequence[float]) -> dict[str, Any]:
    summary = summarise_scores(scores, samples=1)
    return {
        "progression_percentage": 100 * summary.mean,
        "standard_error": 100 * (summary.standard_error or 0.0),
        "episodes_played": summary.n,
    }
