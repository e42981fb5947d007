"""How a conversation reaches its model: through the API's own SDK with our retries, or by a record."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from automem_jax.architect.clients import Api, Json, Reply, server_url
from automem_jax.architect.recorded import Replay
from automem_jax.config import PolicyConfig
from automem_jax.policies.endpoint import NO_KEY, public_url, read_api_key
from automem_jax.policies.prices import ModelUsage, Price
from automem_jax.policies.retry import Backoff, CallTimeout, Retrier, redact


class Endpoint:
    """Sends requests to a server, retries included.

    Args:
      config: server, key's variable, time-outs, retries.
      sleep, rng: how to wait and draw jitter; tests pass their own.

    Raises:
      ConfigError: no key, or its package is not installed.
    """

    def __init__(
        self,
        config: PolicyConfig,
        api: Api,
        *,
        sleep: Callable[[float], Awaitable[None] | None] = asyncio.sleep,
        rng: random.Random | None = None,
    ):
        self.config, self.api = config, api
        key = read_api_key(config)
        self._client = api.connect(config, key)
        self._runner: asyncio.Runner | None = None
        self._retrier = Retrier(
            Backoff(max_retries=config.max_retries, first_s=config.backoff_s),
            secrets=(key,) if key != NO_KEY else (),
            sleep=sleep,
            rng=rng or random.Random(),
        )

    def send(self, body: Json) -> tuple[Json, int]:
        """(The response, how many tries it took). The key, should the server echo it, is blotted out.

        Raises:
          EndpointError: the server failed after all retries, or refuses the request.
        """
        where = public_url(server_url(self.api, self.config))
        what = f"{self.config.kind} model {self.config.model!r} at {where}"
        tries, limit_s = 0, self.config.timeout_s

        async def once() -> Json:
            nonlocal tries
            tries += 1
            try:  # the SDKs' time-out begins anew with every byte
                async with asyncio.timeout(limit_s):
                    response = await self.api.send(self._client, body)
            except TimeoutError as error:
                raise CallTimeout(f"timed out: no whole answer within {limit_s:g} s") from error
            self.api.read(response)  # what is no completion is worth another try
            return response

        self._runner = self._runner or asyncio.Runner()
        response = self._runner.run(self._retrier.call(once, what))
        return clean(response, self._retrier.secrets), tries

    def close(self) -> None:
        """Closes the connections; the next request opens them again. Safe to call twice."""
        if self._runner is None:
            return
        with contextlib.suppress(Exception):  # a connection that breaks while it is closed
            self._runner.run(self._client.close())
        self._runner.close()
        self._runner = None
        self._client = self.api.connect(self.config, self._client.api_key)


def with_cost(reply: Reply, price: Any, tries: int) -> ModelUsage:
    """The usage of one answer with retries and, where its price is known, what it cost."""
    use = reply.usage
    tokens = (use.prompt_tokens, use.completion_tokens, use.cached_tokens)
    cost = None if price is None else price.cost_usd(*tokens, reply.cache_written_tokens)
    return dataclasses.replace(use, retries=tries - 1, cost_usd=cost)


def clean(value: Any, secrets: tuple[str, ...] = ()) -> Any:
    """JSON without secrets, and without lone surrogates, which have no UTF-8 form."""
    if isinstance(value, str):
        return redact(value, secrets).encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {clean(key, secrets): clean(inner, secrets) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(inner, secrets) for inner in value]
    return value


@dataclass(frozen=True)
class Wire:
    """How a conversation reaches its model: over `endpoint`, or, with `replay`, from a record alone."""

    api: Api
    endpoint: Endpoint | None
    replay: Replay | None = None
    price: Price | None = None
    model: str = ""
    max_tokens: int = 0
