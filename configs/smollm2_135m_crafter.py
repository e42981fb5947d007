"""SmolLM2-135M-Instruct on Crafter: the whole path on a laptop, with a real small model.

Command:   automem pipeline --config=configs/smollm2_135m_crafter.py --workdir=runs/smollm2_135m_crafter
           stages alone and several processes: launch/. Which slice fits:
           automem preflight --config=configs/smollm2_135m_crafter.py --topology=v6e:2x4,cuda:h100x8
Hardware:  2 CPU cores, 8 GiB; fetch the model once: automem models get smollm2-135m
Template:  crafter_v0, whose prompts fit rows of 1,024 tokens; crafter_v5 needs training.row_tokens=4096
Memory:    about 2 GiB in training
Duration:  training: rows x row_tokens x (train + recomputation) / (devices x peak x share), with FLOP a token
           from preflight and the share of the peak from `automem bench train`; rows are what
           packing makes of the examples. Episodes: steps x 2 to 4 model calls / the decode rate.
Unknown:   whether a model this small plays at all: it is here to exercise the path, not to score.
"""

from automem_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "smollm2_135m_crafter"

    config.env.name = "craftax_classic"
    config.env.task = "Craftax-Classic"
    config.env.max_steps = 2_000
    config.env.slots = 4
    config.agent.template = "crafter_v0"

    config.model.source = "smollm2-135m"
    config.model.dtype = "float32"
    config.model.max_context = 4_096
    config.model.slots = 4
    config.sampling.temperature = 1.0
    config.sampling.max_tokens = 128

    config.seeds.collect = 16
    config.seeds.heldout_start = 42
    config.seeds.heldout = 10
    config.selection.max_examples = 128

    config.training.lora.rank = 32
    config.training.lora.alpha = 64.0
    config.training.lora.targets = "all_linear"
    config.training.epochs = 1
    config.training.learning_rate = 5e-5
    config.training.schedule = "cosine"
    config.training.warmup = 0.05
    config.training.row_tokens = 1_024
    config.training.batch_rows = 4
    config.training.microbatch_rows = 1
    config.training.share_prefix = 64
    config.training.remat = "dots"
    return config
