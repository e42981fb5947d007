"""Crafter (Craftax-Classic) played by a model behind an OpenAI-compatible server, under crafter_v0.

Command:   automem rollout --config=configs/crafter_endpoint.py --workdir=runs/crafter --seeds=heldout \
             --config.policy.base_url=http://HOST:8000/v1 --config.policy.model=Qwen/Qwen2.5-32B-Instruct
Hardware:  any for this process; the server's own for the model
Duration:  calls x the server's latency / policy.concurrency; an episode is up to 2,000 steps of 2-4 calls
Expected:  not yet known; the paper reports 25.0 +- 5.5 % for this agent with file memory and no training
"""

from automem_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "crafter_endpoint"
    config.env.name = "craftax_classic"
    config.env.task = "Craftax-Classic"
    config.env.max_steps = 2_000
    config.env.slots = 10
    config.agent.template = "crafter_v0"
    config.policy.kind = "openai"
    config.sampling.max_tokens = 4_096
    config.seeds.collect = 100
    config.seeds.heldout = 10
    return config
