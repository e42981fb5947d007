"""What the specialist's gain is owed to: trains it without each signal in turn, and evaluates all.

Writes WORKDIR/attribution.json beside results.json: means with intervals, paired differences, how often each
specialist writes an action (it is stripped), and whether the base's logits are the same bits.
"""

from automem_jax import stages
from automem_jax.cli import flags


def main(experiment: flags.Experiment) -> None:
    flags.require_workdir(experiment)
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "attribute") as loop:
        print(f"attribution: {loop.attribute()}")
