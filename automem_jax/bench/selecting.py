"""Selection benchmark: long episodes of a scripted player, selected from by signals.

Some distinct episodes are played, each of as many steps as asked for (a death starts the next world), and
written again under other seeds until there are enough. Selecting from them is timed as a user meets
it, in a process of its own: wall time, processor time and memory of it and its workers. Half as long
episodes are selected from as well: the time a step must not grow with length.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from automem_jax.agent.template import Template
from automem_jax.config import EnvConfig, SelectionConfig
from automem_jax.envs.base import Percept, TextEnv
from automem_jax.files import write_atomically, write_json
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.selection import select
from automem_jax.testing import ScriptedPlayer

FIRST_SEED = 2_000
LOOK_S = 0.1
_NEXT_WORLD = 1_000_000  # seeds of an episode's worlds lie so far apart


@dataclasses.dataclass(frozen=True)
class SelectReport:
    """One selection.

    Attributes:
      episodes, distinct, steps: episodes selected from, how many of them are no copies, steps each.
      trace_mb: of all traces, 1 MB is 1,000,000 bytes.
      wall_s, cpu_s: of the process that selects, its workers' processor time included.
      peak_gib: the most memory that it and its workers held together, looked at every LOOK_S seconds.
      decisions, kept: memory decisions found and kept.
      ms_per_step: wall time a step.
    """

    episodes: int
    distinct: int
    steps: int
    trace_mb: float
    wall_s: float
    cpu_s: float
    peak_gib: float
    decisions: int
    kept: int
    ms_per_step: float


class Endless:
    """An environment whose episodes end after `steps` steps only: a death starts the next world."""

    def __init__(self, env: TextEnv, steps: int) -> None:
        self._env, self.max_steps = env, steps
        self.num_slots, self.actions = env.num_slots, env.actions
        self.instructions, self.fallback_action = env.instructions, env.fallback_action
        self._seeds: dict[int, int] = {}
        self._taken: dict[int, int] = {}

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """See TextEnv."""
        for slot, seed in zip(slots, seeds, strict=True):
            self._seeds[slot], self._taken[slot] = seed, 0
        return self._env.reset(slots, seeds)

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """See TextEnv."""
        found = dict(self._env.step(actions))
        over = [slot for slot, percept in found.items() if percept.done]
        for slot in actions:
            self._taken[slot] += 1
        if over:
            for slot in over:
                self._seeds[slot] += _NEXT_WORLD
            worlds = self._env.reset(over, [self._seeds[slot] for slot in over])
            found |= {s: dataclasses.replace(worlds[s], action=found[s].action) for s in over}
        for slot, percept in found.items():
            ended = self._taken[slot] >= self.max_steps
            found[slot] = dataclasses.replace(
                percept,
                step=self._taken[slot],
                done=ended,
                end_reason="step cap" if ended else None,
            )
        return found


def play(env: TextEnv, name: str, template: Template, steps: int, episodes: int, out: Path):
    """Traces of `episodes` scripted episodes of `steps` steps; finished ones are kept."""
    spec = RolloutSpec.scripted(name, name, template)
    player = ScriptedPlayer(template.for_task(name), env.actions)
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    return run_episodes(Endless(env, steps), player, spec, seeds, out).paths


def copies(paths: Sequence[Path], count: int, out: Path) -> list[Path]:
    """`count` traces made of those of `paths`, each under a seed and a name of its own."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        header, _, rest = paths[number % len(paths)].read_bytes().partition(b"\n")
        seed = FIRST_SEED + number
        changed = json.loads(header) | {"seed": seed, "episode": f"copy-{seed}"}
        path = out / f"copy-{seed}.jsonl"
        write_atomically(path, json.dumps(changed, separators=(",", ":")).encode() + b"\n" + rest)
        made.append(path)
    return made


def measure(
    paths: Sequence[Path], config: SelectionConfig, out: Path, distinct: int, steps: int
) -> SelectReport:
    """Selects from the traces in a process of its own; what an earlier one selected is deleted."""
    shutil.rmtree(out, ignore_errors=True)
    listed = out.with_name("paths.json")
    write_json(listed, list(map(str, paths)))
    settings = json.dumps(dataclasses.asdict(config))
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(listed), str(out), settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _held_gib(process.pid))
        time.sleep(LOOK_S)
    wall = time.perf_counter() - started
    told, problem = process.communicate()
    if process.returncode:
        raise RuntimeError(f"selection failed: {problem.strip().splitlines()[-1:]}")
    figures = json.loads(told) | {"peak_gib": peak}
    return SelectReport(
        episodes=len(paths),
        distinct=distinct,
        steps=steps,
        trace_mb=sum(path.stat().st_size for path in paths) / 1e6,
        wall_s=wall,
        ms_per_step=1e3 * wall / (len(paths) * steps),
        **figures,
    )


def run(
    env_config: EnvConfig,
    template: Template,
    config: SelectionConfig,
    folder: Path,
    *,
    episodes: int,
    distinct: int,
    steps: int,
) -> list[SelectReport]:
    """Plays and measures: episodes of half the steps, then of all."""
    from automem_jax import envs

    reports = []
    slots = dataclasses.replace(env_config, slots=min(distinct, env_config.slots), max_steps=0)
    env = envs.make(slots)
    try:
        for length in (steps // 2, steps):
            place = folder / f"{length}_steps"
            played = play(env, env_config.name, template, length, distinct, place / "played")
            paths = copies(played, episodes, place / "traces")
            reports.append(measure(paths, config, place / "select", distinct, length))
    finally:
        env.close()
    return reports


def _select(listed: str, out: str, settings: str) -> None:
    """What `measure` runs: selects from the traces that a file lists, prints figures as JSON."""
    from automem_jax.config import from_config_dict

    config = from_config_dict(json.loads(settings), SelectionConfig)
    report = select(json.loads(Path(listed).read_text()), config, out)
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    figures = {
        "cpu_s": sum(use.ru_utime + use.ru_stime for use in used),
        "decisions": report.memory_turns,
        "kept": report.count,
    }
    print(json.dumps(figures))


def _held_gib(pid: int) -> float:
    """Resident memory of a process and of all that it started (Linux; 0 elsewhere)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return 0.0
    own = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
    return own / 2**20 + sum(_held_gib(int(child)) for child in started)


if __name__ == "__main__":
    _select(*sys.argv[1:])
