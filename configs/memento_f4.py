"""MiniHack-Memento-F4-v0: two creatures, four arms, a corridor of 58 moves between cue and decision.

Command:   automem pipeline --config=configs/memento_f4.py --workdir=runs/memento_f4
Hardware:  2 CPU cores, under 4 GiB
Duration:  see README.md, "What was measured"
Base:      embedded_f4, the embedded base after it learnt from a scripted player of this task too
           (tools/pretrain_tiny_base.py --task=f4); chance is 25 %
"""

from automem_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "memento_f4"

    config.env.task = "MiniHack-Memento-F4-v0"
    config.env.max_steps = 100  # the shortest win takes about 70 moves
    config.env.prompt_mode = "language"  # a model this small cannot read a map
    config.agent.template = "memento_f4_v0"

    config.seeds.gate = 96
    config.architect.gate.batch = 32
    config.seeds.collect = 256
    config.seeds.heldout = 128

    config.model.source = "embedded_f4"
    config.model.max_context = 384

    config.sampling.min_p = 0.03
    config.sampling.max_tokens = 32

    # A branch plays some seventy steps: fewer decisions, eight times each.
    config.selection.counterfactual.decisions = 128
    config.selection.counterfactual.continuations = 8

    config.training.learning_rate = 2e-3
    config.training.epochs = 5
    config.training.row_tokens = 512
    config.training.packing = "first_fit"
    config.training.batch_rows = 4
    return config
