"""Makes automem_jax/bench/recorded_requests.jsonl.gz: requests of Crafter and NetHack episodes.

The scripted player plays them, so that no model is needed and the file is the same every time. The
first steps are left out: memory is empty there, which a long episode's prompts are not.

Usage: python tools/record_requests.py [OUT]
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from automem_jax import envs
from automem_jax.agent.template import load_template
from automem_jax.bench.recorded import SHIPPED, RecordedEpisode, from_trace, write_recorded
from automem_jax.config import EnvConfig
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.testing import ScriptedPlayer
from automem_jax.traces.store import read_trace

FIRST_SEED = 4_000_000
SKIPPED_STEPS, RECORDED_STEPS = 40, 8
PLAYED = (  # environment, task, template, episodes
    ("craftax_classic", "Craftax-Classic", "crafter_v0", 8),
    ("craftax_classic", "Craftax-Classic", "crafter_v5", 8),
    ("nethack", "NetHackChallenge", "nethack_v0", 4),
    ("nethack", "NetHackChallenge", "nethack_v2", 4),
)


def main(out: Path) -> None:
    episodes: list[RecordedEpisode] = []
    for name, task, template_name, count in PLAYED:
        steps = SKIPPED_STEPS + RECORDED_STEPS
        with scripted(
            name, task, template_name, range(FIRST_SEED, FIRST_SEED + count), steps
        ) as paths:
            found = [from_trace(read_trace(path), SKIPPED_STEPS) for path in paths]
        episodes += [episode for episode in found if episode.requests]
        print(f"{template_name}: {sum(len(e.requests) for e in found)} requests")
    write_recorded(out, episodes)
    print(f"{out}: {out.stat().st_size:,} bytes")


@contextlib.contextmanager
def scripted(
    name: str, task: str, template_name: str, seeds: Sequence[int], max_steps: int
) -> Iterator[list[Path]]:
    """Traces of episodes that the scripted player plays; gone when the block ends."""
    env = envs.make(EnvConfig(name=name, task=task, slots=len(seeds), max_steps=max_steps))
    template = load_template(template_name)
    spec = RolloutSpec.scripted(name, task, template)
    player = ScriptedPlayer(template.for_task(task), env.actions)
    with contextlib.closing(env), tempfile.TemporaryDirectory() as directory:
        yield run_episodes(env, player, spec, seeds, Path(directory), show_progress=False).paths


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED)
