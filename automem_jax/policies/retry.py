"""Retries of calls to a model server: exponential backoff, jitter, Retry-After, time-outs.

The SDKs' own retries are switched off; this is the only place that decides what is tried again and
how long to wait, so that every wait can be counted and tests need not sleep.
"""

from __future__ import annotations

import asyncio
import email.utils
import inspect
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
RETRY_AFTER_JITTER = 0.1
_RETRY_DELAY = re.compile(r"""retryDelay['"]:\s*['"](\d{1,6}(?:\.\d+)?)s""")
REQUEST_FAULTS = frozenset({400, 413, 422})  # about this one request, such as an overlong prompt


class EndpointError(RuntimeError):
    """A call to a model server failed for good. One line, without secrets.

    Attributes:
      attempts: calls made.
      status: HTTP status of the last answer; None where there was none.
    """

    def __init__(self, message: str, *, attempts: int, status: int | None = None):
        super().__init__(message)
        self.attempts = attempts
        self.status = status


class CallTimeout(TimeoutError):
    """No whole answer came in time; worth another try."""


class GarbledAnswer(ValueError):
    """The server answered 200 with something that is no completion; worth another try."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before try n (n = 1 is the first retry).

    wait = min(max_s, first_s * 2^(n-1)) * u with u uniform in [0.5, 1], and at least the server's
    Retry-After, which is itself capped at `retry_after_max_s`; up to RETRY_AFTER_JITTER of it is added,
    so that those who were sent away together do not come back together.
    """

    max_retries: int = 5
    first_s: float = 1.0
    max_s: float = 60.0
    retry_after_max_s: float = 300.0

    def wait_s(self, retry: int, retry_after_s: float | None, rng: random.Random) -> float:
        """Seconds to wait before retry number `retry` (from 1)."""
        wait = min(self.max_s, self.first_s * 2.0 ** (retry - 1)) * rng.uniform(0.5, 1.0)
        if retry_after_s is not None:
            asked = min(retry_after_s, self.retry_after_max_s)
            wait = max(wait, asked * rng.uniform(1.0, 1.0 + RETRY_AFTER_JITTER))
        return wait


@dataclass
class Retrier:
    """Calls a function until it succeeds, fails for good, or the retries are used up.

    `sleep` (a coroutine function, or a plain one), `rng` and `clock` (wall seconds, for Retry-After
    dates) are injectable. `secrets` are replaced by *** in every message that leaves here.
    """

    backoff: Backoff
    secrets: tuple[str, ...] = ()
    sleep: Callable[[float], Awaitable[None] | None] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.time

    async def call(self, function: Callable[[], Awaitable[Result]], what: str) -> Result:
        """Awaits `function()`; `what` names the call in errors (server and model, no secret).

        Raises:
          EndpointError: not retryable, or still failing after `max_retries` retries.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                return await function()
            except Exception as error:  # the SDKs share no base class; classify sorts them
                status, retryable = classify(error)
                if retryable is None:
                    raise
                reason = one_line(error, self.secrets)
                asked_s = retry_after_s(error, self.clock())
            # Raised outside the handler: the SDK's exception holds the request's headers, so the key.
            if not retryable or attempts > self.backoff.max_retries:
                calls = "1 call" if attempts == 1 else f"{attempts} calls"
                message = redact(f"{what}: {reason} (after {calls})", self.secrets)
                raise EndpointError(message, attempts=attempts, status=status)
            waiting = self.sleep(self.backoff.wait_s(attempts, asked_s, self.rng))
            if inspect.isawaitable(waiting):
                await waiting


def classify(error: Exception) -> tuple[int | None, bool | None]:
    """(HTTP status or None, whether to try again); (None, None) for what is no server failure."""
    status = getattr(error, "status_code", None)
    if isinstance(error, (GarbledAnswer, json.JSONDecodeError)):
        return status, True
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "APIConnectionError" in kinds:  # covers time-outs and resets, in both SDKs
        return None, True
    if "APIResponseValidationError" in kinds:
        return status, True
    if "APIStatusError" in kinds:
        return status, _worth_another_try(error, status)
    if kinds & {"APIError", "OpenAIError", "AnthropicError"}:
        return status, False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return None, True
    if _from_http_library(type(error)):
        return None, True
    return None, None


def _worth_another_try(error: Exception, status: int | None) -> bool:
    """By the server's own word where it gives one, else by the status."""
    said = (_headers(error) or {}).get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    # OpenAI's 429 for an account without money does not pass by waiting.
    return status in RETRIED_STATUS and getattr(error, "code", None) != "insufficient_quota"


def _headers(error: Exception) -> Any:
    return getattr(getattr(error, "response", None), "headers", None)


def retry_after_s(error: Exception, now_s: float) -> float | None:
    """Seconds a server asked to wait: retry-after-ms, Retry-After (seconds or HTTP date), or Google's
    retryDelay in the body."""
    asked = _RETRY_DELAY.search(str(getattr(error, "body", "")))
    delay = float(asked[1]) if asked else None
    headers = _headers(error)
    if headers is None:
        return delay
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name)) * scale
        except (TypeError, ValueError):
            continue
        if 0.0 <= seconds < float("inf"):
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after"))
    except (TypeError, ValueError):
        return delay
    return max(0.0, date.timestamp() - now_s)


def one_line(error: Exception, secrets: tuple[str, ...] = (), limit: int = 300) -> str:
    """An exception as one short line, kind and message, secrets replaced before it is cut."""
    text = redact(" ".join(f"{type(error).__name__}: {words(error)}".split()), secrets)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def words(error: Exception) -> str:
    """What an exception says; with the server's body where the SDK keeps it to itself (a list, as
    Google sends it)."""
    body = getattr(error, "body", None)
    return f"{error} - {body}" if isinstance(body, list) else str(error)


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """Replaces every secret by ***; a server may echo the key it was sent."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


def _from_http_library(kind: type) -> bool:
    return any(
        base.__module__.split(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2"}
        for base in kind.__mro__
    )
