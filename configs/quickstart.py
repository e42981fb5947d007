"""The whole loop on a laptop: the embedded 0.6 M model on MiniHack-Memento-Short-F2-v0.

Command:   bash launch/quickstart.sh      (= automem pipeline --config=configs/quickstart.py)
Hardware:  2 CPU cores, under 4 GiB
Duration:  see README.md, "What was measured"
Expected:  base + v0 0.55..0.75, specialist + best template >= 0.90, random control clearly below
"""

from automem_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "quickstart"

    config.env.task = "MiniHack-Memento-Short-F2-v0"
    config.env.max_steps = 30  # the shortest win takes 11 moves
    config.env.prompt_mode = "language"  # a model this small cannot read a map
    config.agent.template = "memento_v0"

    config.seeds.gate = 192
    config.architect.gate.batch = 32  # so many pairs keep the sampler's slots busy
    config.seeds.collect = 384
    config.seeds.heldout = 256

    config.model.max_context = 384

    config.sampling.min_p = 0.03  # a model this small otherwise emits a stray byte now and then
    config.sampling.max_tokens = 24

    config.training.learning_rate = 2e-3  # 0.6 M weights bear and need a far higher rate than 32 B
    config.training.epochs = 5
    config.training.row_tokens = 512
    config.training.packing = "first_fit"  # items keep the order of the shuffle
    config.training.batch_rows = 4
    return config
