"""The whole loop in order: evolve, collect, select, train, evaluate, report.

Every stage continues where it stopped: interrupt it at any time and run the same command again.
"""

from automem_jax import stages
from automem_jax.cli import flags


def main(experiment: flags.Experiment) -> None:
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "pipeline") as loop:
        loop.pipeline()
