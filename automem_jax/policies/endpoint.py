"""What the API policies share: the key, calls in flight, retries, seeds, counts, error answers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import random
import threading
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.config import ConfigError, PolicyConfig
from automem_jax.policies.prices import ModelUsage, load_prices
from automem_jax.policies.retry import (
    REQUEST_FAULTS,
    Backoff,
    CallTimeout,
    EndpointError,
    Retrier,
    redact,
)
from automem_jax.text.messages import Completion, Request, RequestKey


class EndpointPolicy:
    """A policy that asks a server, one call a request, `config.concurrency` at a time.

    Subclasses say how one request is asked (`_ask`). A call that still fails after its retries
    becomes a Completion with finish_reason "error"; nothing is raised for it. All calls share one
    event loop in a thread, so that hundreds may wait for their answers.

    Args:
      config: server, models, key's variable, time-outs, retries, prices.
      seed: the run's seed, mixed into every request's own.
      sleep, rng: how to wait and draw jitter; tests pass their own.

    Attributes:
      usage: calls, tokens and money by model, since the start or `take_usage`.
    """

    kind = "endpoint"
    default_base_url = ""

    def __init__(
        self,
        config: PolicyConfig,
        *,
        seed: int = 0,
        sleep: Callable[[float], Awaitable[None] | None] = asyncio.sleep,
        rng: random.Random | None = None,
    ):
        if not config.model:
            raise ConfigError(
                f"policy.model is empty; name the model {self.kind} should answer with"
            )
        self.config = config
        self.max_batch = config.concurrency
        self.usage: dict[str, ModelUsage] = {}
        self._seed = seed
        self._prices = load_prices(config.prices, (config.model, config.adapter_model))
        key = read_api_key(config)
        self._retrier = Retrier(
            Backoff(max_retries=config.max_retries, first_s=config.backoff_s),
            secrets=(key,) if key != NO_KEY else (),
            sleep=sleep,
            rng=rng or random.Random(),
        )
        self._client = self._connect(key)
        self._free = asyncio.Semaphore(config.concurrency)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers every request, in order; failures come back as completions, see the class.

        Where this is interrupted, no further call is made.
        """
        answers = asyncio.run_coroutine_threadsafe(self._answer_all(requests), self._running())
        try:
            return answers.result()
        except BaseException:
            answers.cancel()
            raise

    def describe(self) -> dict[str, Any]:
        """Kind, models and server (without credentials) for trace headers."""
        return {
            "kind": self.kind,
            "model": self.config.model,
            "adapter_model": self.config.adapter_model,
            "base_url": public_url(self.config.base_url or self.default_base_url),
        }

    def take_usage(self) -> dict[str, ModelUsage]:
        """`usage`, which begins anew."""
        taken, self.usage = self.usage, {}
        return taken

    def close(self) -> None:
        """Closes the connections and ends the thread. Safe to call twice."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        closing = asyncio.run_coroutine_threadsafe(self._client.close(), loop)
        with contextlib.suppress(Exception):  # a connection that breaks while it is closed
            closing.result(timeout=5)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def _connect(self, key: str) -> Any:
        raise NotImplementedError

    async def _ask(self, request: Request, model: str) -> Answer:
        raise NotImplementedError

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name=self.kind, daemon=True
            )
            self._thread.start()
        return self._loop

    async def _answer_all(self, requests: Sequence[Request]) -> list[Completion]:
        tasks = [asyncio.ensure_future(self._answer(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:  # a bug of ours, or the run was interrupted
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _answer(self, request: Request) -> Completion:
        adapter = request.role == "memory" and self.config.adapter_model
        model = self.config.adapter_model if adapter else self.config.model
        what = f"{self.kind} model {model!r} at {self.describe()['base_url']}"
        tries = 0

        async def ask() -> Answer:
            nonlocal tries
            tries += 1
            # The SDKs' time-out begins anew with every byte; a server may trickle for ever.
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    return await self._ask(request, model)
            except TimeoutError as error:
                limit = self.config.timeout_s
                raise CallTimeout(f"timed out: no whole answer within {limit:g} s") from error

        try:
            async with self._free:
                answer = await self._retrier.call(ask, what)
        except EndpointError as error:
            self._count(model, Answer(Completion("")), tries, failed=True)
            outage = error.status not in REQUEST_FAULTS
            return Completion(
                "", finish_reason="error", error=str(error), outage=outage, tries=tries
            )
        cost_usd = self._count(model, answer, tries, failed=bool(answer.completion.error))
        # A server may echo what it was sent; the key must not reach a trace or a ledger.
        completion = answer.completion
        return dataclasses.replace(
            completion,
            text=redact(completion.text, self._retrier.secrets),
            error=completion.error and redact(completion.error, self._retrier.secrets),
            tries=tries,
            cost_usd=cost_usd,
        )

    def _count(self, model: str, answer: Answer, tries: int, *, failed: bool) -> float | None:
        """Adds a request to the model's usage; what it cost."""
        completion, price = answer.completion, self._prices.get(model)
        tokens = (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens)
        cost_usd = None if price is None else price.cost_usd(*tokens, answer.cache_written_tokens)
        self.usage.setdefault(model, ModelUsage()).add(
            ModelUsage(
                calls=1,
                retries=tries - 1,
                failed=failed,
                prompt_tokens=completion.prompt_tokens,
                cached_tokens=completion.cached_tokens,
                completion_tokens=completion.completion_tokens,
                cost_usd=cost_usd,
            )
        )
        return cost_usd


@dataclass(frozen=True)
class Answer:
    """A completion, and how many tokens of its prompt the server put into its cache for a price."""

    completion: Completion
    cache_written_tokens: int = 0


NO_KEY = "none"


def read_api_key(config: PolicyConfig) -> str:
    """The key from the environment variable the config names; "none" for a loopback http server.

    Raises:
      ConfigError: the variable is unset or empty and the server is not on this machine.
    """
    variable = config.api_key_env or f"{config.kind.upper()}_API_KEY"
    key = os.environ.get(variable, "").strip()
    if key:
        return key
    url = urllib.parse.urlsplit(config.base_url)
    if url.scheme == "http" and url.hostname in {"127.0.0.1", "localhost", "::1"}:
        return NO_KEY
    raise ConfigError(
        f"environment variable {variable} is not set; export it with the server's key "
        f"(any word where the server wants none), or name another one in api_key_env"
    )


def public_url(url: str) -> str:
    """A URL without user, password, query and fragment, fit for logs and trace headers."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.split("@")[-1], parts.path, "", ""))


def request_seed(run_seed: int, key: RequestKey) -> int:
    """A 31-bit sampling seed that depends on the request's key and the run's seed only."""
    text = f"{run_seed}|{key.episode}|{key.step}|{key.phase}|{key.turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def missing_sdk(name: str) -> ConfigError:
    """The error for an SDK that is not installed, with the command that installs it."""
    return ConfigError(f"the {name} package is not installed; run: pip install 'automem_jax[api]'")
