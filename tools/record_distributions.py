"""Makes automem_jax/forecast/recorded.json: how long episodes are, and what their calls take.

The quickstart's episodes come from a work directory in which it has run; of the larger games a scripted
player plays some, so that no model is needed.

Speeds are those of the work directory's timing.json; where it ran beside other work, give them.

Usage: python tools/record_distributions.py QUICKSTART_WORKDIR [OUT [TOKENS_PER_S TRAIN_TOKENS_PER_S]]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from record_requests import scripted

from automem_jax.forecast.recorded import (
    BASE,
    SHIPPED,
    group_of,
    measure_workdir,
    read_characters,
    write_groups,
)

FIRST_SEED = 4_100_000
PLAYED = (  # environment, task, template, episodes, most steps
    ("craftax_classic", "Craftax-Classic", "crafter_v0", 16, 2_000),
    ("craftax_classic", "Craftax-Classic", "crafter_v5", 16, 2_000),
    ("minihack", "MiniHack-Corridor-R3-v0", "minihack_v0", 16, 100),
    ("minihack", "MiniHack-Corridor-R3-v0", "minihack_v4", 16, 100),
    ("nethack", "NetHackChallenge", "nethack_v0", 8, 2_000),
    ("nethack", "NetHackChallenge", "nethack_v2", 8, 2_000),
)


def main(quickstart: str, out: Path, *speeds: float) -> None:
    found = measure_workdir(quickstart)
    if speeds:
        rollouts, training = speeds
        found = dataclasses.replace(found, tokens_per_s=rollouts, train_tokens_per_s=training)
    groups = [group for group in found.groups if not group.scripted]
    for name, task, template, count, cap in PLAYED:
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        with scripted(name, task, template, seeds, cap) as paths:
            rows = read_characters(paths)
        groups.append(group_of((name, task, template, BASE), rows, cap, scripted=True))
        print(groups[-1])
    source = "the quickstart's episodes, and scripted ones of Crafter, MiniHack and NetHack"
    write_groups(out, dataclasses.replace(found, source=source, groups=tuple(groups)))
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 5):
        sys.exit(__doc__)
    main(
        sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else SHIPPED, *map(float, sys.argv[3:])
    )
