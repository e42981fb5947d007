"""Loop 2: trains the memory specialist's LoRA adapter on the selected decisions.

Checkpoints, metrics.jsonl and adapter.safetensors go to WORKDIR/train/KIND.
"""

from automem_jax import stages
from automem_jax.cli import flags

_KIND = flags.stage_flag(
    "kind", "", "Which selection to train on. Empty: selection.kind.", ["", "lineage", "random"]
)


def main(experiment: flags.Experiment) -> None:
    flags.require_workdir(experiment)
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir) as loop:
        loop.train(_KIND.value or experiment.config.selection.kind)
