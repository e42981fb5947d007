"""Plays episodes with the agent's file memory and writes one trace each.

Traces go to WORKDIR/traces/SET/NAME. `--template=best` takes loop 1's result, `--adapter=lineage`
the specialist trained by `automem train`; a path works for both.
"""

from automem_jax import stages
from automem_jax.cli import flags

_SET = flags.stage_flag(
    "seeds", "collect", "Which seed set to play.", ["search", "gate", "collect", "heldout"]
)
_TEMPLATE = flags.stage_flag(
    "template", "", "Template name, path, or 'best'. Empty: the config's agent.template."
)
_ADAPTER = flags.stage_flag(
    "adapter",
    "",
    "'lineage', 'random' or a path; 'none': base only. Empty: base only, or policy.adapter_model.",
)


def main(experiment: flags.Experiment) -> None:
    flags.record_config(experiment)
    flags.use_compilation_cache()
    with stages.Stages(experiment.config, experiment.workdir, "rollout") as loop:
        loop.rollout(_SET.value, _TEMPLATE.value, _ADAPTER.value)
