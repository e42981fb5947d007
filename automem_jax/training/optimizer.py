"""AdamW under a schedule with a linear warm-up, gradients clipped by global norm."""

from __future__ import annotations

import optax

from automem_jax.config import TrainingConfig


def learning_rate(config: TrainingConfig, total_steps: int) -> optax.Schedule:
    """0 -> peak over the warm-up's share of all steps (at least one), then by `config.schedule`.

    cosine and linear fall to 0 at the last step; constant stays at the peak. Without a warm-up
    the first step has the peak already.
    """
    warmup_steps = min(max(1, round(config.warmup * total_steps)), max(1, total_steps - 1))
    start = 0.0 if config.warmup > 0 else config.learning_rate
    last = max(total_steps, warmup_steps + 1)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=start,
            peak_value=config.learning_rate,
            warmup_steps=warmup_steps,
            decay_steps=last,
        )
    end = 0.0 if config.schedule == "linear" else config.learning_rate
    return optax.join_schedules(
        [
            optax.linear_schedule(start, config.learning_rate, warmup_steps),
            optax.linear_schedule(config.learning_rate, end, last - warmup_steps),
        ],
        [warmup_steps],
    )


def make_optimizer(config: TrainingConfig, total_steps: int) -> optax.GradientTransformation:
    """The optimizer of `config` over `total_steps` steps; its moments are float32."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, total_steps), b1=0.9, b2=0.95, weight_decay=config.weight_decay
        ),
    )
