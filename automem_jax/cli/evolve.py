"""Loop 1: reviews traces, proposes template edits, keeps those that win on paired gate seeds.

The ledger is WORKDIR/evolve/ledger.jsonl, the result WORKDIR/evolve/best.json. With --dry-run it
prints the plan, the forecast and the architect's first prompt, plays nothing and calls nobody.
"""

from automem_jax import stages
from automem_jax.cli import flags

_DRY_RUN = flags.stage_flag(
    "dry-run", False, "Print plan, forecast and prompts; play nothing, call nobody."
)


def main(experiment: flags.Experiment) -> None:
    if _DRY_RUN.value:
        print(stages.Stages(experiment.config, experiment.workdir).plan_evolution())
        return
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "evolve") as loop:
        loop.evolve()
