"""A scripted model server on the loopback interface: a test double for API policies and architects.

It speaks enough of OpenAI's chat completions and Anthropic's Messages API for their SDKs, and can
misbehave on demand: error statuses, Retry-After, garbage, resets, silence.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One scripted answer.

    Attributes:
      text: completion text, wrapped in the API's own JSON when status is 200 and body is None.
      status: HTTP status.
      headers: extra headers, e.g. {"Retry-After": "7"}, or another Content-Type.
      body: raw body sent instead of the wrapped text.
      reset: drop the connection with a TCP reset instead of answering.
      hang: accept the request and answer nothing until the server closes.
      cut: announce the whole body, send half of it and close the connection.
      trickle_s: send the body a byte at a time, waiting so long before each.
      finish_reason: in the API's words; None is its normal end.
      prompt_tokens, completion_tokens: usage figures.
    """

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    reset: bool = False
    hang: bool = False
    cut: bool = False
    trickle_s: float = 0.0
    finish_reason: str | None = None
    prompt_tokens: int = 11
    completion_tokens: int = 7


@dataclass(frozen=True)
class Received:
    """One request as it came in: path, headers (lower-case names) and decoded JSON body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # so that many may connect at once


class LoopbackServer:
    """Serves scripted replies on 127.0.0.1 at a free port; use as a context manager.

    `script` is a list of replies, taken in the order requests arrive, the last one repeated, or a
    function from Received to Reply.
    """

    def __init__(self, script: Sequence[Reply] | Callable[[Received], Reply]):
        self.received: list[Received] = []
        self._script = script
        self._lock = threading.Lock()
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        poll_s = 0.02  # how soon the serving thread notices a shutdown
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(poll_s,), daemon=True
        )

    @property
    def base_url(self) -> str:
        """Base URL for the OpenAI SDK; Anthropic's takes `root_url`."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """http://127.0.0.1:port."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", 0))
        body = json.loads(handler.rfile.read(length) or b"{}")
        headers = {name.lower(): value for name, value in handler.headers.items()}
        received = Received(handler.path, headers, body)
        with self._lock:
            self.received.append(received)
            number = len(self.received) - 1
        if callable(self._script):
            reply = self._script(received)
        else:
            reply = self._script[min(number, len(self._script) - 1)]
        if reply.hang:
            self._closing.wait()
            handler.close_connection = True
            return
        if reply.reset:
            linger = struct.pack("ii", 1, 0)  # on, 0 s: close() sends RST
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            handler.close_connection = True
            return
        data = reply.body
        if data is None:
            anthropic = handler.path.endswith("/messages")
            data = json.dumps(_wrap(reply, received, anthropic)).encode()
        handler.send_response(reply.status)
        own = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (own | reply.headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        if reply.cut:
            data = data[: len(data) // 2]
            handler.close_connection = True
        if not reply.trickle_s:
            handler.wfile.write(data)
            return
        with contextlib.suppress(OSError):  # the client had enough
            for byte in data:
                if self._closing.wait(reply.trickle_s):
                    break
                handler.wfile.write(bytes([byte]))
        handler.close_connection = True


def _wrap(reply: Reply, received: Received, anthropic: bool) -> dict[str, Any]:
    if reply.status != 200:
        return {"error": {"type": "scripted", "message": reply.text or "scripted error"}}
    model = received.body.get("model", "")
    if anthropic:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": reply.text}],
            "stop_reason": reply.finish_reason or "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": reply.prompt_tokens,
                "output_tokens": reply.completion_tokens,
            },
        }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": reply.text},
                "finish_reason": reply.finish_reason or "stop",
            }
        ],
        "usage": {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        },
    }
