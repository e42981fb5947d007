"""Loop 2: picks memory decisions from the collected traces.

Examples go to WORKDIR/select/KIND/examples.jsonl, counts and reasons to selection.json beside it.
"""

from automem_jax import stages
from automem_jax.cli import flags

_KIND = flags.stage_flag(
    "kind",
    "",
    "'lineage', or 'random' for the control of the same size. Empty: selection.kind.",
    ["", "lineage", "random"],
)


def main(experiment: flags.Experiment) -> None:
    flags.require_workdir(experiment)
    flags.record_config(experiment)
    with stages.Stages(experiment.config, experiment.workdir) as loop:
        loop.select(_KIND.value or experiment.config.selection.kind)
