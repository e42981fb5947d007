"""An experiment on an environment and a template of one's own, with the embedded model.

Command:   automem pipeline --config=configs/own/fork.py --workdir=runs/fork
Hardware:  2 CPU cores, under 4 GiB
Duration:  about 80 s of processor time
Expected:  fork_v0 0.55..0.70, specialist + best template >= 0.90, random control between them
"""

from automem_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "fork"

    config.env.name = "fork_env:Fork"  # module:Class; the module lies beside this file
    config.env.task = "Fork"
    config.env.max_steps = 20
    config.env.prompt_mode = "language"
    config.agent.template = "configs/own/fork_v0.py"

    config.model.max_context = 384
    config.sampling.min_p = 0.03
    config.sampling.max_tokens = 24

    config.training.learning_rate = 2e-3
    config.training.epochs = 5
    config.training.packing = "first_fit"
    return config
