"""HTTP as ASGI gives it: request bodies in, checked and bounded; JSON, text and event streams out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from automem_jax.serve.protocol import ApiError, decode_json

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_DISCARDED_BYTES = 64 * 2**20  # of a body that is too large, read so that its sender hears why
_DISCARDED_S = 5.0


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    Attributes:
      body_bytes: of a request. requests: answered at once; more are turned away with 429.
      max_tokens: the most a request may generate; 0: what the context leaves.
      body_s: seconds a client may take to send its request; send_s: to take a part of its answer.
    """

    body_bytes: int = 4 * 2**20
    requests: int = 512
    max_tokens: int = 0
    body_s: float = 30.0
    send_s: float = 60.0


class ClientGone(Exception):
    """The connection was closed before the answer was sent."""


class Answer:
    """One HTTP answer. `status` is 0 until it has begun."""

    def __init__(self, send: Send, send_s: float):
        self._send, self._send_s = send, send_s
        self.status = 0
        self._streaming = False

    async def json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        await self._whole(status, text, "application/json", headers or {})

    async def text(self, status: int, text: str, kind: str) -> None:
        await self._whole(status, text.encode(), kind, {})

    async def error(self, error: ApiError) -> None:
        """The error's JSON; in a stream that has begun, its last event."""
        if self._streaming:
            await self.event(error.body())
            await self.end_stream()
        elif not self.status:
            await self.json(error.status, error.body(), error.headers)

    async def start_stream(self) -> None:
        self._streaming = True
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        await self._begin(200, "text/event-stream; charset=utf-8", headers)

    async def event(self, body: Any) -> None:
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        await self._part(b"data: " + data + b"\n\n", more=True)

    async def end_stream(self) -> None:
        self._streaming = False
        await self._part(b"data: [DONE]\n\n", more=False)

    async def _whole(self, status: int, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        await self._begin(status, kind, {"content-length": str(len(body)), **headers})
        await self._part(body, more=False)

    async def _begin(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self.status = status
        every = {"content-type": kind, **headers}
        message = {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in every.items()],
        }
        await self._send(message)

    async def _part(self, body: bytes, more: bool) -> None:
        message = {"type": "http.response.body", "body": body, "more_body": more}
        try:
            async with asyncio.timeout(self._send_s):
                await self._send(message)
        except TimeoutError as error:
            raise ClientGone from error


async def read_json(scope: Scope, receive: Receive, limits: Limits) -> dict[str, Any]:
    """The request's JSON object. Raises ApiError (400, 408, 413, 415) and ClientGone."""
    kind = header(scope, b"content-type").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        # What a web page may send to any host without asking first is not JSON.
        raise ApiError(415, "send the body as Content-Type: application/json")
    limit = limits.body_bytes
    try:
        async with asyncio.timeout(limits.body_s):
            body = await _read(receive, limit)
    except TimeoutError as error:
        raise ApiError(
            408, "the body did not arrive in time", headers={"connection": "close"}
        ) from error
    if body is None:
        with contextlib.suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(_DISCARDED_S):
                await _read(receive, _DISCARDED_BYTES, keep=False)
        raise ApiError(413, f"the body is beyond {limit:,} bytes", headers={"connection": "close"})
    return decode_json(body)


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


async def _read(receive: Receive, limit: int, keep: bool = True) -> bytes | None:
    """The body; None where it is longer than `limit`. Raises ClientGone."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        size += len(message.get("body", b""))
        if size > limit:
            return None
        if keep:
            parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
