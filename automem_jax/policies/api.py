"""The policy of an API that a config names."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from automem_jax.config import ConfigError, PolicyConfig
from automem_jax.policies.base import Policy


def make_endpoint(
    config: PolicyConfig,
    *,
    sleep: Callable[[float], Awaitable[None] | None] = asyncio.sleep,
    rng: random.Random | None = None,
) -> Policy:
    """The API policy a config names.

    Raises:
      ConfigError: a kind that is no API, or what the policy's constructor raises.
    """
    if config.kind == "openai":
        from automem_jax.policies.openai import OpenAIPolicy

        return OpenAIPolicy(config, sleep=sleep, rng=rng)
    if config.kind == "anthropic":
        from automem_jax.policies.anthropic import AnthropicPolicy

        return AnthropicPolicy(config, sleep=sleep, rng=rng)
    raise ConfigError(f"kind of an API is {config.kind!r}; it is openai or anthropic")
