"""What the API policies share: the key, the thread pool, retries, seeds and error answers."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from automem_jax.config import ConfigError, PolicyConfig
from automem_jax.policies.retry import REQUEST_FAULTS, Backoff, EndpointError, Retrier, redact
from automem_jax.text.messages import Completion, Request, RequestKey


class EndpointPolicy:
    """A policy that asks a server, one call a request, `config.concurrency` at a time.

    Subclasses say how one request is asked (`_ask`). A call that still fails after its retries
    becomes a Completion with finish_reason "error"; nothing is raised for it.

    Args:
      config: server, models, key's variable, time-outs, retries.
      seed: the run's seed, mixed into every request's own.
      sleep, rng: how to wait and draw jitter; tests pass their own.
    """

    kind = "endpoint"
    default_base_url = ""

    def __init__(
        self,
        config: PolicyConfig,
        *,
        seed: int = 0,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ):
        if not config.model:
            raise ConfigError(
                f"policy.model is empty; name the model {self.kind} should answer with"
            )
        self.config = config
        self.max_batch = config.concurrency
        self._seed = seed
        key = read_api_key(config)
        self._retrier = Retrier(
            Backoff(max_retries=config.max_retries, first_s=config.backoff_s),
            secrets=(key,) if key != NO_KEY else (),
            sleep=sleep,
            rng=rng or random.Random(),
        )
        self._client = self._connect(key)
        self._pool: ThreadPoolExecutor | None = None

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers every request, in order; failures come back as completions, see the class."""
        if len(requests) == 1:
            return [self._answer(requests[0])]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.config.concurrency, thread_name_prefix=self.kind)
        return list(self._pool.map(self._answer, requests))

    def describe(self) -> dict[str, Any]:
        """Kind, models and server (without credentials) for trace headers."""
        return {
            "kind": self.kind,
            "model": self.config.model,
            "adapter_model": self.config.adapter_model,
            "base_url": public_url(self.config.base_url or self.default_base_url),
        }

    def close(self) -> None:
        """Ends the thread pool and closes the connections. Safe to call twice."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._client.close()

    def _connect(self, key: str) -> Any:
        raise NotImplementedError

    def _ask(self, request: Request, model: str) -> Completion:
        raise NotImplementedError

    def _answer(self, request: Request) -> Completion:
        adapter = request.role == "memory" and self.config.adapter_model
        model = self.config.adapter_model if adapter else self.config.model
        what = f"{self.kind} model {model!r} at {self.describe()['base_url']}"
        tries = 0

        def ask() -> Completion:
            nonlocal tries
            tries += 1
            return self._ask(request, model)

        try:
            answer = self._retrier.call(ask, what)
            # A server may echo what it was sent; the key must not reach a trace or a ledger.
            return dataclasses.replace(
                answer,
                text=redact(answer.text, self._retrier.secrets),
                error=answer.error and redact(answer.error, self._retrier.secrets),
                tries=tries,
            )
        except EndpointError as error:
            outage = error.status not in REQUEST_FAULTS
            return Completion(
                "", finish_reason="error", error=str(error), outage=outage, tries=tries
            )


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
