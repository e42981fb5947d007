"""Loop 1: reviews traces, proposes template edits, keeps those that win on paired gate seeds.

The ledger is WORKDIR/evolve/ledger.jsonl, the result WORKDIR/evolve/best.json.
"""

from automem_jax import stages
from automem_jax.cli import flags


def main(experiment: flags.Experiment) -> None:
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir) as loop:
        loop.evolve()
