"""MiniHack's tasks as a text environment: any registered id, each with its own action set.

Percept fields and action names are those of `nethack.py`. A task is solved when its own goal is
reached with a positive reward; Memento, which ends in either arm, is failed by a negative one.
"""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Mapping
from typing import Any

from automem_jax.config import EnvConfig
from automem_jax.envs import boxoban
from automem_jax.envs.nethack import OBSERVATION_KEYS, Judge, NleTextEnv, Outcome, end_of_game
from automem_jax.envs.progression import minihack_progression

# The benchmark's tasks. It plays them with a random character, whatever their own one is.
BENCHMARK_TASKS = (
    "MiniHack-Boxoban-Hard-v0",
    "MiniHack-Boxoban-Medium-v0",
    "MiniHack-MazeWalk-9x9-v0",
    "MiniHack-MazeWalk-15x15-v0",
    "MiniHack-Corridor-R3-v0",
    "MiniHack-CorridorBattle-Dark-v0",
    "MiniHack-Quest-Easy-v0",
    "MiniHack-Quest-Medium-v0",
)

# What to do, by the first part of a task's name that fits.
_GOALS = (
    (
        "Memento-F4",
        "Two creatures behind bars at the start tell which of four arms to take at the far fork: blue "
        "jelly and red mold mean the northernmost, spotted jelly and red mold the next, blue jelly "
        "and green mold the one after, spotted jelly and green mold the southernmost. Walk to the end "
        "of that arm.",
    ),
    (
        "Memento",
        "A creature behind bars at the start tells which arm to take at the far fork: "
        "blue jelly means north, lichen means south. Walk to the end of that arm.",
    ),
    ("Boxoban", "Push every boulder onto a fountain."),
    ("Sokoban", "Push the boulders into the pits and reach the goal."),
    ("KeyRoom", "Find the key, open the locked door and reach the stairs down."),
    ("Quest", "Cross the level, past its dangers, and reach the stairs down."),
    (
        "CorridorBattle",
        "Fight in the corridor, where few can reach you, then reach the stairs down.",
    ),
    ("", "Explore the level and reach the stairs down."),
)


class TaskJudge(Judge):
    """Solved, failed, dead or aborted, by the engine's end status and its reward."""

    def begin(self, engine: Any, fields: Mapping[str, Any]) -> float:
        return 0.0

    def judge(
        self, engine: Any, fields: Mapping[str, Any], reward: float, done: bool, info: Mapping
    ) -> Outcome:
        status = info["end_status"].name
        if status == "TASK_SUCCESSFUL":
            solved = reward > 0
            reason = "task solved" if solved else "task failed"
            return Outcome(minihack_progression(solved), reason)
        if done:
            return Outcome(0.0, end_of_game(engine) if status == "DEATH" else "aborted")
        return Outcome()


def make_minihack(config: EnvConfig) -> NleTextEnv:
    """The task `config.task` in `config.slots` slots.

    Raises:
      ValueError: no such task; the nearest registered ids are named.
      envs.boxoban.LevelsError: a Boxoban task without level files in `config.levels_dir`.
    """
    spec = _spec(config.task)
    goal = next(text for prefix, text in _GOALS if f"MiniHack-{prefix}" in config.task)
    return NleTextEnv(
        functools.partial(_make_engine, spec, config.autopickup, config.levels_dir),
        TaskJudge,
        slots=config.slots,
        max_steps=config.max_steps or _own_cap(spec),
        instructions=f"{goal}\nActions: {{actions}}",
        fallback=("north",),
        prompt_mode=config.prompt_mode,
        numeric_distances=config.numeric_distances,
    )


def task_ids() -> list[str]:
    """All registered MiniHack tasks, sorted."""
    import gymnasium

    _register()
    return sorted(name for name in gymnasium.registry if name.startswith("MiniHack-"))


def _spec(task: str) -> Any:
    import gymnasium

    known = task_ids()
    if task not in known:
        near = difflib.get_close_matches(task, known, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown MiniHack task {task!r}; nearest: {', '.join(near or known[:3])} "
            f"({len(known)} are registered, see envs.minihack.task_ids)"
        )
    return gymnasium.registry[task]


@functools.cache
def _register() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import minihack  # noqa: F401


def _own_cap(spec: Any) -> int:
    """0 lets NleTextEnv read the cap off the first engine; a registered one comes first."""
    return int(spec.max_episode_steps or 0)


def _make_engine(spec: Any, autopickup: bool, levels_dir: str) -> Any:
    """MiniHack's own class, without gymnasium's wrappers; NleTextEnv counts the steps."""
    from gymnasium.envs.registration import load_env_creator

    settings = {
        **spec.kwargs,
        "observation_keys": OBSERVATION_KEYS,
        "autopickup": autopickup,
        "fix_moon_phase": True,
    }
    if spec.id in BENCHMARK_TASKS:
        settings |= {"character": "@", "penalty_step": -0.01, "penalty_time": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "Boxoban" in spec.id:
            settings["observation_keys"] = (*OBSERVATION_KEYS, "chars")
            return boxoban.engine_class(spec.id)(levels_dir=levels_dir, **settings)
        return load_env_creator(spec.entry_point)(**settings)
