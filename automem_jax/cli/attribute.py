"""What the specialist's gain is owed to: trains it without each signal in turn, and evaluates all.

With --alone it is also trained on what each signal alone selects.

Writes WORKDIR/attribution.json beside results.json: means with intervals, paired differences, how often each
specialist writes an action (it is stripped), and whether the base's logits are the same bits.
"""

from automem_jax import stages
from automem_jax.cli import flags

_ALONE = flags.stage_flag("alone", False, "Also train by each signal alone.")


def main(experiment: flags.Experiment) -> None:
    flags.require_workdir(experiment)
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "attribute") as loop:
        print(f"attribution: {loop.attribute(_ALONE.value)}")
