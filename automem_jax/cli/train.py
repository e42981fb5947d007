"""Loop 2: trains the memory specialist's LoRA adapter on the selected decisions.

Checkpoints, metrics.jsonl and adapter.safetensors go to WORKDIR/train/KIND.

Several processes: run the same command in each, on one shared WORKDIR, with --coordinator, --processes and
--process_id, or under SLURM or on a TPU pod, which say so themselves. On SIGTERM the step under way is saved
and the exit status is 75: the same command goes on from there.
"""

import contextlib
import os

from automem_jax import stages
from automem_jax.cli import flags

_KIND = flags.stage_flag(
    "kind",
    "",
    "Which selection to train on: a directory of WORKDIR/select. Empty: selection.kind.",
)
_COORDINATOR = flags.stage_flag("coordinator", "", "HOST:PORT of process 0, for several processes.")
_PROCESSES = flags.stage_flag("processes", "", "How many processes train together.")
_PROCESS_ID = flags.stage_flag("process_id", "", "This process's number, from 0.")


def main(experiment: flags.Experiment) -> None:
    from automem_jax import distributed

    flags.require_workdir(experiment)
    flags.use_compilation_cache()
    with contextlib.ExitStack() as stack:
        if distributed.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value):
            import jax

            if jax.process_index():  # the first one speaks for all
                quiet = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(quiet))
        flags.record_config(experiment)
        loop = stack.enter_context(stages.Stages(experiment.config, experiment.workdir, "train"))
        loop.train(_KIND.value or experiment.config.selection.kind)
