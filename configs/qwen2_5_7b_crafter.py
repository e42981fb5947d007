"""Qwen2.5-7B-Instruct on Crafter: the 32B recipe on one host.

Command:   automem pipeline --config=configs/qwen2_5_7b_crafter.py --workdir=runs/qwen2_5_7b_crafter
           stages alone and several processes: launch/. Which slice fits:
           automem preflight --config=configs/qwen2_5_7b_crafter.py --topology=v6e:2x4,cuda:h100x8
Hardware:  4 devices as it stands (v6e:2x2, v5e:2x2, 4 H100), one H100 with training.mesh.tensor=1
Memory:    not measured yet: ask preflight
Duration:  training: rows x row_tokens x (train + recomputation) / (devices x peak x share), with FLOP a token
           from preflight and the share of the peak from `automem bench train`; rows are what
           packing makes of the examples. Episodes: steps x 2 to 4 model calls / the decode rate.
Unknown:   speed and progression on hardware: none was at hand. The paper has no figure for 7B.
           The paper's batch counts examples; here it counts packed rows, which hold several: where
           examples are short, lower batch_rows to keep as many steps.
"""

from automem_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "qwen2_5_7b_crafter"

    config.env.name = "craftax_classic"
    config.env.task = "Craftax-Classic"
    config.env.max_steps = 2_000
    config.env.slots = 10
    config.agent.template = "crafter_v5"

    config.model.source = "checkpoints/Qwen2.5-7B-Instruct"
    config.model.dtype = "bfloat16"
    config.model.max_context = 16_384
    config.model.slots = 8
    config.sampling.temperature = 1.0
    config.sampling.max_tokens = 4_096

    config.seeds.collect = 100
    config.seeds.heldout_start = 42
    config.seeds.heldout = 10
    config.selection.max_examples = 1_597

    config.training.lora.rank = 128
    config.training.lora.alpha = 256.0
    config.training.lora.targets = "attention"
    config.training.epochs = 4
    config.training.learning_rate = 5e-5
    config.training.schedule = "cosine"
    config.training.warmup = 0.05
    config.training.row_tokens = 16_384
    config.training.batch_rows = 32
    config.training.microbatch_rows = 1
    config.training.mesh.tensor = 4
    config.training.remat = "full"
    return config
