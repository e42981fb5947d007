"""Qwen2.5-32B-Instruct on Crafter: the paper's recipe (rank 256 on attention, four epochs).

Command:   automem pipeline --config=configs/qwen2_5_32b_crafter.py --workdir=runs/qwen2_5_32b_crafter
           stages alone and several processes: launch/. Which slice fits:
           automem preflight --config=configs/qwen2_5_32b_crafter.py --topology=v6e:2x4,cuda:h100x8
Hardware:  a slice of 8 devices as it stands (v5e:2x4, v6e:2x4, 8 H100); others with the flags that
           preflight prints
Memory:    8 H100: 9.8 GiB a device in training (preflight), of which base 7.6, activations 1.4.
           The in-process engine shares the base's weights where the mesh has tensor axes alone; its
           prefill and decoding are preflight's other two programs
Duration:  training: rows x row_tokens x (train + recomputation) / (devices x peak x share), with FLOP a
           token from preflight and the share of the peak from `automem bench train`; rows are what
           packing makes of the examples. Episodes: steps x 2 to 4 model calls / the decode rate.
Unknown:   speed and progression on hardware: none was at hand. The paper reports
           51.36 +- 3.81 % after loop 2.
           The paper's batch counts examples; here it counts packed rows, which hold several: where
           examples are short, lower batch_rows to keep as many steps.
"""

from automem_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "qwen2_5_32b_crafter"

    config.env.name = "craftax_classic"
    config.env.task = "Craftax-Classic"
    config.env.max_steps = 2_000
    config.env.slots = 10
    config.agent.template = "crafter_v5"

    config.model.source = "checkpoints/Qwen2.5-32B-Instruct"
    config.model.dtype = "bfloat16"
    config.model.max_context = 16_384
    config.model.slots = 8
    config.sampling.temperature = 1.0
    config.sampling.max_tokens = 4_096

    config.seeds.collect = 100
    config.seeds.heldout_start = 42
    config.seeds.heldout = 10
    config.selection.max_examples = 1_597

    config.training.lora.rank = 256
    config.training.lora.alpha = 512.0
    config.training.lora.targets = "attention"
    config.training.epochs = 4
    config.training.learning_rate = 5e-5
    config.training.schedule = "cosine"
    config.training.warmup = 0.05
    config.training.row_tokens = 16_384
    config.training.batch_rows = 32
    config.training.microbatch_rows = 1
    config.training.mesh.tensor = 8
    config.training.remat = "offload"
    return config
