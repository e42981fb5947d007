"""The HTTP API as an ASGI application: routes, the key, models, adapters, counters.

GET /health, GET /metrics, GET /v1/models, POST /v1/chat/completions, and where adapters may be loaded
POST /v1/load_lora_adapter and /v1/unload_lora_adapter (vLLM's names for it).
"""

from __future__ import annotations

import asyncio
import hmac
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from automem_jax.sampling.engine import Engine
from automem_jax.serve import protocol
from automem_jax.serve.asgi import (
    Answer,
    ClientGone,
    Limits,
    Receive,
    Scope,
    Send,
    header,
    read_json,
)
from automem_jax.serve.completions import Completions
from automem_jax.serve.driver import Driver, EngineFailed
from automem_jax.serve.metrics import exposition
from automem_jax.serve.protocol import ApiError
from automem_jax.text.tokenizer import Tokenizer

LoadAdapter = Callable[[Path], Any]


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
        self._engine = engine
        self._model, self._max_context = model, max_context
        self._completions = Completions(
            self.driver, tokenizer, base=model, max_context=max_context, limits=self.limits
        )
        self._adapters = dict.fromkeys(engine.adapters())
        self._api_key = api_key.encode()
        self._adapter_root, self._load_adapter = adapter_root, load_adapter
        self._created = int(time.time())
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
        answer = Answer(send, self.limits.send_s)
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

    async def _route(self, scope: Scope, receive: Receive, answer: Answer) -> None:
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
        given = header(scope, b"authorization")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._api_key):
            raise ApiError(
                401,
                "missing or wrong API key; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    # Models and counters

    def figures(self) -> dict[str, int]:
        """What was answered so far, in a few numbers."""
        statuses = dict(self._statuses)  # another thread may ask
        return {
            "answered": sum(statuses.values()),
            "in flight": self._completions.in_flight,
            "server errors": sum(n for status, n in statuses.items() if status >= 500),
            "clients gone": self._disconnects,
        }

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

    async def _models(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        data = [self._described(name) for name in self._names()]
        await answer.json(200, {"object": "list", "data": data})

    async def _one_model(self, scope: Scope, receive: Receive, answer: Answer) -> None:
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

    async def _metrics(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        counters = await self.driver.call(self._engine.counters)
        text = exposition(counters, self._statuses, self._completions.in_flight, self._disconnects)
        await answer.text(200, text, "text/plain; version=0.0.4; charset=utf-8")

    # Adapters

    async def _load(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        data = await read_json(scope, receive, self.limits)
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

    async def _unload(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        name = (await read_json(scope, receive, self.limits)).get("lora_name")
        if not isinstance(name, str) or name not in self._adapters:
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

    async def _chat(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        with self._completions.admitted():
            request = protocol.parse_chat(await read_json(scope, receive, self.limits))
            self._check_model(request.model)
            await self._completions.answer(request, receive, answer)
