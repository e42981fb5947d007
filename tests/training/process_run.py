"""One process of a toy training: FOLDER OUT [COORDINATOR COUNT NUMBER [STEP SIGNAL]].

With STEP, the process sends itself SIGNAL after that step. Prints what its process index was.
"""

import json
import os
import sys
from pathlib import Path

from toy import MESH_RUN, WordTokenizer, tiny_decoder, toy_config

from automem_jax import distributed

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
if len(sys.argv) > 3:
    distributed.HEARTBEAT_TIMEOUT_S = 20
    assert distributed.start(*sys.argv[3:6])
step_to_signal, number = (int(x) for x in (*sys.argv[6:8], 0, 0)[:2])

from automem_jax.training.loop import train  # noqa: E402
from automem_jax.training.preemption import Preempted  # noqa: E402


def report(step, total, figures):
    if step == step_to_signal:
        os.kill(os.getpid(), number)


config = toy_config(**(MESH_RUN | {"epochs": 12, "checkpoint_every": 2}))
try:
    result = train(config, tiny_decoder(), WordTokenizer(), folder / "e.jsonl", out, report)
except Preempted as stop:
    print(stop, file=sys.stderr)
    raise
import jax  # noqa: E402

print(
    json.dumps({"process": jax.process_index(), "of": jax.process_count(), "steps": result.steps})
)
