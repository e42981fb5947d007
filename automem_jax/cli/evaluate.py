"""Two-model evaluation and attribution on held-out seeds.

Plays every arm of evaluation.arms on the same seeds, prints the table and writes results.json.
"""

from automem_jax import stages
from automem_jax.cli import flags


def main(experiment: flags.Experiment) -> None:
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "evaluate") as loop:
        loop.evaluate()
