"""AdamW under a cosine schedule with a linear warm-up, gradients clipped by global norm."""

from __future__ import annotations

import optax

from automem_jax.config import TrainingConfig


def learning_rate(config: TrainingConfig, total_steps: int) -> optax.Schedule:
    """0 -> peak over the warm-up's share of all steps (at least one), then cosine down to 0."""
    warmup_steps = min(max(1, round(config.warmup * total_steps)), max(1, total_steps - 1))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup > 0 else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(total_steps, warmup_steps + 1),
    )


def make_optimizer(config: TrainingConfig, total_steps: int) -> optax.GradientTransformation:
    """The optimizer of `config` over `total_steps` steps."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, total_steps), b1=0.9, b2=0.95, weight_decay=config.weight_decay
        ),
    )
