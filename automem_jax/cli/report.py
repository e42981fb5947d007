"""Writes WORKDIR/report.html, one self-contained page, from what the other stages left on disk."""

from automem_jax import stages
from automem_jax.cli import flags


def main(experiment: flags.Experiment) -> None:
    flags.require_workdir(experiment)
    with stages.Stages(experiment.config, experiment.workdir, "report") as loop:
        loop.report()
