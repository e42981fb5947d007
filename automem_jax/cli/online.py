"""Online rounds: the specialist collects, is selected from, and is trained on; guarded against drift.

As many rounds as online.rounds says, from train/KIND on (selection.kind). Round r writes select/online_r and
train/online_r; WORKDIR/online.json names the last adapter that was kept.
"""

from automem_jax import stages
from automem_jax.cli import flags


def main(experiment: flags.Experiment) -> None:
    flags.require_workdir(experiment)
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "online") as loop:
        loop.online()
