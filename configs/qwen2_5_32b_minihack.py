"""Qwen2.5-32B-Instruct on MiniHack: the paper's recipe (rank 128, all linear layers).

Command:   automem pipeline --config=configs/qwen2_5_32b_minihack.py:Corridor-R3 \\
             --workdir=runs/qwen2_5_32b_minihack/Corridor-R3
           stages alone and several processes: launch/. Which slice fits:
           automem preflight --config=configs/qwen2_5_32b_minihack.py:Corridor-R3 \\
             --topology=v6e:2x4,cuda:h100x8
Hardware:  a slice of 8 devices as it stands (v5e:2x4, v6e:2x4, 8 H100); others with the flags that
           preflight prints; one H100 with --config.model.quantization=nf4
Memory:    training, preflight: v6e:2x2 21.6 GiB a device, 2 H100 43.1, one H100 with nf4 45.9.
           The in-process engine shares the base's weights where the mesh has tensor axes alone; its
           prefill and decoding are preflight's other two programs
Duration:  training: rows x row_tokens x (train + recomputation) / (devices x peak x share), with FLOP a
           token from preflight and the share of the peak from `automem bench train`; rows are what
           packing makes of the examples. Episodes: steps x 2 to 4 model calls / the decode rate.
Unknown:   speed and progression on hardware: none was at hand. The paper reports
           30.00 +- 7.25 % after loop 2,
           one adapter over all eight tasks; here a work directory holds one, named after the colon.
           The paper's batch counts examples; here it counts packed rows, which hold several: where
           examples are short, lower batch_rows to keep as many steps.
"""

from automem_jax.config import default_config

TASKS = (
    "Boxoban-Hard",
    "Boxoban-Medium",
    "MazeWalk-9x9",
    "MazeWalk-15x15",
    "Corridor-R3",
    "CorridorBattle-Dark",
    "Quest-Easy",
    "Quest-Medium",
)


def get_config(task="Corridor-R3"):
    config = default_config()
    config.name = "qwen2_5_32b_minihack"

    if task not in TASKS:
        raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}")
    config.env.name = "minihack"
    config.env.task = f"MiniHack-{task}-v0"
    config.env.max_steps = 100
    config.env.slots = 8
    config.env.workers = 8
    config.agent.template = "minihack_v4"

    config.model.source = "checkpoints/Qwen2.5-32B-Instruct"
    config.model.dtype = "bfloat16"
    config.model.max_context = 16_384
    config.model.slots = 8
    config.sampling.temperature = 1.0
    config.sampling.max_tokens = 4_096

    config.seeds.collect = 50  # of each of eight tasks: 400
    config.seeds.heldout_start = 42
    config.seeds.heldout = 5  # of each task
    config.selection.max_examples = 444

    config.training.lora.rank = 128
    config.training.lora.alpha = 256.0
    config.training.lora.targets = "all_linear"
    config.training.epochs = 3
    config.training.learning_rate = 5e-5
    config.training.schedule = "cosine"
    config.training.warmup = 0.05
    config.training.row_tokens = 16_384
    config.training.batch_rows = 16
    config.training.microbatch_rows = 1
    config.training.mesh.tensor = 8
    config.training.remat = "offload"
    return config
