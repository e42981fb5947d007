"""The HTTP API as an ASGI application: routes, limits, the key, streams, and clients that go away.

GET /health, GET /metrics, GET /v1/models, POST /v1/chat/completions, and where adapters may be loaded
POST /v1/load_lora_adapter and /v1/unload_lora_adapter (vLLM's names for it).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import itertools
import json
import secrets
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import Event, Generated, GenerationRequest, QueueFull
from automem_jax.serve import protocol
from automem_jax.serve.driver import Driver, EngineFailed
from automem_jax.serve.metrics import exposition
from automem_jax.serve.protocol import ApiError, ChatRequest
from automem_jax.text import chat
from automem_jax.text.tokenizer import Tokenizer

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
LoadAdapter = Callable[[Path], Any]

_SEED_DOMAIN = 0x53455256  # keeps a client's seeds apart from a rollout's keys
_DISCARDED_BYTES = 64 * 2**20  # of a body that is too large, read so that its sender hears why
_DISCARDED_S = 5.0
_LONG_PROMPT = 20_000  # characters; tokenised beside the loop, so that others are served meanwhile


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


class ChatApp:
    """Answers HTTP with an engine.

    Args:
      engine: driven by a thread of its own from the lifespan's startup to its shutdown.
      tokenizer: of the engine's model.
      model: the name that means the base; adapters go by the names they were loaded under.
      max_context: the engine's, for messages and the models list.
      api_key: what clients must send as bearer token; "": nothing.
      adapter_root: directory whose adapters clients may load; None: none.
      load_adapter: reads an adapter's file or directory.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        model: str,
        max_context: int,
        api_key: str = "",
        limits: Limits | None = None,
        adapter_root: Path | None = None,
        load_adapter: LoadAdapter | None = None,
    ):
        self.driver = Driver(engine)
        self.limits = limits or Limits()
        self._engine, self._tokenizer = engine, tokenizer
        self._model, self._max_context = model, max_context
        self._adapters = dict.fromkeys(engine.adapters())
        self._api_key = api_key.encode()
        self._adapter_root, self._load_adapter = adapter_root, load_adapter
        self._created = int(time.time())
        self._numbers = itertools.count()
        self._in_flight = 0
        self._statuses: Counter[int] = Counter()
        self._disconnects = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            raise ValueError(f"ASGI scope {scope['type']!r} is not served; this is an HTTP API")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.driver.start(asyncio.get_running_loop())
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.driver.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send, self.limits.send_s)
        try:
            await self._route(scope, receive, answer)
        except ClientGone:
            self._disconnects += 1
        except ApiError as error:
            await answer.error(error)
        except EngineFailed as error:
            await answer.error(ApiError(503, str(error), kind="server_error"))
        except Exception as error:  # ours; the client hears that, the operator where
            traceback.print_exc(file=sys.stderr)
            name = type(error).__name__
            await answer.error(ApiError(500, f"internal error ({name})", kind="server_error"))
        finally:
            if answer.status:
                self._statuses[answer.status] += 1

    async def _route(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        if path == "/health":
            if self.driver.failure is not None:
                raise ApiError(503, str(self.driver.failure), kind="server_error")
            await answer.json(200, {"status": "ok"})
            return
        self._check_key(scope)
        routes: dict[str, tuple[str, Callable[..., Awaitable[None]]]] = {
            "/metrics": ("GET", self._metrics),
            "/v1/models": ("GET", self._models),
            "/v1/chat/completions": ("POST", self._chat),
        }
        if self._adapter_root is not None:
            routes["/v1/load_lora_adapter"] = ("POST", self._load)
            routes["/v1/unload_lora_adapter"] = ("POST", self._unload)
        if path.startswith("/v1/models/"):
            wanted, handler = "GET", self._one_model
        elif path in routes:
            wanted, handler = routes[path]
        else:
            raise ApiError(404, f"no such path: {method} {path[:200]}; try /v1/chat/completions")
        if method != wanted:
            raise ApiError(405, f"{path} takes {wanted}, not {method}", headers={"allow": wanted})
        await handler(scope, receive, answer)

    def _check_key(self, scope: Scope) -> None:
        if not self._api_key:
            return
        given = _header(scope, b"authorization")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._api_key):
            raise ApiError(
                401,
                "missing or wrong API key; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    # Models and counters

    def _names(self) -> list[str]:
        return [self._model, *self._adapters]

    def _described(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "automem_jax",
            "root": self._model,
            "parent": None if name == self._model else self._model,
            "max_model_len": self._max_context,
        }

    async def _models(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        data = [self._described(name) for name in self._names()]
        await answer.json(200, {"object": "list", "data": data})

    async def _one_model(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        name = scope["path"].removeprefix("/v1/models/")
        self._check_model(name)
        await answer.json(200, self._described(name))

    def _check_model(self, name: str) -> None:
        if name not in self._names():
            raise ApiError(
                404,
                f"the model {name[:200]!r} does not exist; there are: {', '.join(self._names())}",
                code="model_not_found",
                param="model",
            )

    async def _metrics(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        counters = await self.driver.call(self._engine.counters)
        text = exposition(counters, self._statuses, self._in_flight, self._disconnects)
        await answer.text(200, text, "text/plain; version=0.0.4; charset=utf-8")

    # Adapters

    async def _load(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        data = await self._body(scope, receive)
        name, path = data.get("lora_name"), data.get("lora_path")
        if not isinstance(name, str) or not name or not isinstance(path, str) or not path:
            raise ApiError(400, "give lora_name and lora_path, both strings")
        if name == self._model:
            raise ApiError(400, f"{name!r} is the base's name; take another", param="lora_name")
        root = self._adapter_root.resolve()
        chosen = (root / path).resolve()
        if not chosen.is_relative_to(root) or not chosen.exists():
            raise ApiError(404, f"no adapter at {path[:200]!r}", param="lora_path")
        try:
            adapter = await asyncio.to_thread(self._load_adapter, chosen)
            await self.driver.call(lambda: self._engine.load_adapter(name, adapter))
        except EngineFailed:
            raise
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ApiError(400, f"cannot load this adapter: {error}", param="lora_path") from error
        self._adapters[name] = None
        await answer.json(200, self._described(name))

    async def _unload(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        name = (await self._body(scope, receive)).get("lora_name")
        if name not in self._adapters:
            raise ApiError(404, f"no adapter is called {str(name)[:200]!r}", param="lora_name")
        try:
            await self.driver.call(lambda: self._engine.unload_adapter(name))
        except EngineFailed:
            raise
        except (KeyError, RuntimeError) as error:
            raise ApiError(409, f"cannot unload {name!r} now: {error}") from error
        del self._adapters[name]
        await answer.json(200, {"id": name, "object": "model", "deleted": True})

    # Chat completions

    async def _chat(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if self._in_flight >= self.limits.requests:
            raise _busy(f"{self._in_flight} requests are being answered")
        self._in_flight += 1
        try:
            request = protocol.parse_chat(await self._body(scope, receive))
            self._check_model(request.model)
            if sum(len(m.content) for m in request.messages) < _LONG_PROMPT:
                asked = self._generations(request)
            else:
                asked = await asyncio.to_thread(self._generations, request)
            await self._answer_chat(request, asked, receive, answer)
        finally:
            self._in_flight -= 1

    def _generations(self, request: ChatRequest) -> list[GenerationRequest]:
        prompt = chat.render(request.messages, self._tokenizer, add_generation_prompt=True)
        room = self._max_context - len(prompt)
        wanted = request.sampling.max_tokens
        if room < max(1, wanted):
            raise ApiError(
                400,
                f"this model's context is {self._max_context} tokens; the messages take "
                f"{len(prompt)}, and {wanted or 'at least 1'} more are asked for; shorten one or "
                "the other",
                code="context_length_exceeded",
                param="messages",
            )
        if self.limits.max_tokens:
            if wanted > self.limits.max_tokens:
                raise ApiError(
                    400,
                    f"max_tokens {wanted} is beyond this server's {self.limits.max_tokens}",
                    param="max_tokens",
                )
            room = min(room, self.limits.max_tokens)
        sampling = dataclasses.replace(request.sampling, max_tokens=wanted or room)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        adapter = None if request.model == self._model else request.model
        return [
            GenerationRequest(
                id=next(self._numbers),
                prompt_ids=prompt,
                sampling=sampling,
                key=_random_words(seed, index),
                adapter=adapter,
                top_logprobs=request.top_logprobs,
            )
            for index in range(request.choices)
        ]

    async def _answer_chat(
        self,
        request: ChatRequest,
        asked: list[GenerationRequest],
        receive: Receive,
        answer: _Answer,
    ) -> None:
        events: asyncio.Queue[tuple[int, Event | BaseException]] = asyncio.Queue()
        gone = asyncio.ensure_future(_disconnected(receive))
        gone.add_done_callback(lambda _: events.put_nowait((-1, ClientGone())))
        submitted = []
        try:
            for index, generation in enumerate(asked):
                submitted.append(generation.id)
                try:
                    await self.driver.submit(
                        generation, lambda event, index=index: events.put_nowait((index, event))
                    )
                except QueueFull as error:
                    raise _busy("the queue is full") from error
                except ValueError as error:
                    raise ApiError(400, str(error)) from error
            stream = self._events(events, len(asked))
            if request.stream:
                await self._stream(request, asked, stream, answer)
            else:
                await self._whole(request, asked, stream, answer)
        finally:
            for id in submitted:  # of those that are answered the driver knows nothing more
                self.driver.cancel(id)
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _events(
        self, events: asyncio.Queue[tuple[int, Event | BaseException]], open_choices: int
    ) -> AsyncIterator[tuple[int, Event]]:
        """(choice, event) until every choice has ended. Raises ClientGone, EngineFailed."""
        while open_choices:
            index, event = await events.get()
            if isinstance(event, BaseException):
                raise event
            open_choices -= event.finished is not None
            yield index, event

    async def _whole(self, request, asked, stream, answer: _Answer) -> None:
        finished: dict[int, Generated] = {}
        async for index, event in stream:
            if event.finished is not None:
                finished[index] = event.finished
        generated = [finished[index] for index in range(len(asked))]
        body = protocol.completion_body(
            request,
            _answer_id(),
            int(time.time()),
            generated,
            len(asked[0].prompt_ids),
            self._tokenizer,
        )
        await answer.json(200, body)

    async def _stream(self, request, asked, stream, answer: _Answer) -> None:
        answer_id, created = _answer_id(), int(time.time())

        def chunk(index: int, delta: Mapping[str, Any], **more: Any) -> dict[str, Any]:
            return protocol.chunk_body(request, answer_id, created, index, delta, **more)

        await answer.start_stream()
        for index in range(len(asked)):
            await answer.event(chunk(index, {"role": "assistant", "content": ""}))
        sent = [0] * len(asked)
        finished: dict[int, Generated] = {}
        try:
            async for index, event in stream:
                entries = self._entries(request, event)
                text, matched = event.text, None
                if event.finished is not None:
                    whole, matched = protocol.visible_text(
                        event.finished.text, request.sampling.stop, request.keep_stop
                    )
                    text = whole[sent[index] :]
                sent[index] += len(text)
                if text or entries:
                    await answer.event(chunk(index, {"content": text}, logprobs=entries))
                if event.finished is not None:
                    finished[index] = event.finished
                    reason = protocol.finish_reason(event.finished)
                    await answer.event(chunk(index, {}, finished=reason, matched=matched))
        except EngineFailed as error:
            await answer.event(ApiError(503, str(error), kind="server_error").body())
            await answer.end_stream()
            return
        if request.include_usage:
            generated = [finished[index] for index in range(len(asked))]
            counts = protocol.usage(len(asked[0].prompt_ids), generated)
            await answer.event(protocol.usage_chunk(request, answer_id, created, counts))
        await answer.end_stream()

    def _entries(self, request: ChatRequest, event: Event) -> list[dict[str, Any]] | None:
        """The log-probabilities that go with an event. The alternatives come with the whole answer, so
        where they are asked for all go with its end."""
        if not request.logprobs or (request.top_logprobs and event.finished is None):
            return None
        told = event.finished if request.top_logprobs else event
        top = told.top_logprobs if request.top_logprobs else ()
        return protocol.logprob_entries(self._tokenizer, told.token_ids, told.logprobs, top)

    async def _body(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """The request's JSON object. Raises ApiError (400, 408, 413, 415) and ClientGone."""
        kind = _header(scope, b"content-type").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            # What a web page may send to any host without asking first is not JSON.
            raise ApiError(415, "send the body as Content-Type: application/json")
        limit = self.limits.body_bytes
        try:
            async with asyncio.timeout(self.limits.body_s):
                body = await _read(receive, limit)
        except TimeoutError as error:
            raise ApiError(
                408, "the body did not arrive in time", headers={"connection": "close"}
            ) from error
        if body is None:
            with contextlib.suppress(TimeoutError, ClientGone):
                async with asyncio.timeout(_DISCARDED_S):
                    await _read(receive, _DISCARDED_BYTES, keep=False)
            raise ApiError(
                413, f"the body is beyond {limit:,} bytes", headers={"connection": "close"}
            )
        return protocol.decode_json(body)


class _Answer:
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


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _busy(why: str) -> ApiError:
    return ApiError(
        429,
        f"{why}; try again",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": "1"},
    )


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _random_words(seed: int, choice: int) -> tuple[int, int, int, int, int]:
    """The words that one choice's randomness follows from."""
    mask = 0xFFFFFFFF
    return _SEED_DOMAIN, seed & mask, (seed >> 32) & mask, choice, 0


def _answer_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"
