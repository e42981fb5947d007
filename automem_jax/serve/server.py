"""Runs the API: binds an address, starts the engine, prints where it listens, ends in good order."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automem_jax.config import ConfigError

if TYPE_CHECKING:  # so that a wrong command is told before JAX is loaded
    from automem_jax.serve.app import ChatApp

_CONNECTIONS_OVER_REQUESTS = 256  # idle ones, and those that are turned away with a message
_LONGEST_HEAD = 64 * 2**10  # bytes of a request's line and headers


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one. `shutdown_s`: how long requests that run may go on
    once the server was told to end."""

    host: str = "127.0.0.1"
    port: int = 8000
    shutdown_s: int = 30


def bind(address: Address) -> socket.socket:
    """A socket bound to the address.

    Raises:
      OSError: the address is in use or not this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        raise OSError(
            f"cannot listen on {address.host}:{address.port} ({error.strerror or error}); "
            "choose another --host or --port"
        ) from error
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(bound: socket.socket) -> str:
    """The base URL that clients take."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def make_server(app: ChatApp, address: Address):
    """A uvicorn server for the app; `serve` runs it, tests run it in a thread.

    Raises:
      ConfigError: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigError(
            "the uvicorn package is not installed; run: pip install 'automem_jax[serve]'"
        ) from error
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # the app prints its own errors; no line for each request
            access_log=False,
            server_header=False,
            backlog=2048,
            limit_concurrency=app.limits.requests + _CONNECTIONS_OVER_REQUESTS,
            h11_max_incomplete_event_size=_LONGEST_HEAD,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=address.shutdown_s,
        )
    )


def serve(
    app: ChatApp, address: Address, bound: socket.socket, ready: Callable[[str], None] = print
) -> None:
    """Answers until SIGINT or SIGTERM, then lets what runs end; a second signal ends at once.

    Args:
      ready: called with the URL before the first request is taken.

    Raises:
      RuntimeError: the engine failed.
    """
    server = make_server(app, address)

    def end(*_: object) -> None:
        """Before uvicorn listens for signals, and when it raises what it caught once more at its end."""
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        bound.listen(2048)
        ready(url_of(bound))
        app.driver.on_broken = lambda: setattr(server, "should_exit", True)
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        bound.close()
    if app.driver.broken:
        raise app.driver.failure
