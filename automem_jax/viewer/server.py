"""Serves the page and its data over HTTP, for the one who started it.

Requests name episodes by id, never by path. The Host header must be this server's own, so that no
other site's page can reach it through a name that it points here.
"""

from __future__ import annotations

import ipaddress
import json
import re
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from automem_jax.traces.schema import TraceError
from automem_jax.viewer import page
from automem_jax.viewer.library import Library, NoFrame

_ID = r"([0-9a-f]{12})"
_MOST_QUERY_CHARS = 1000
_TYPES = {"css": "text/css", "js": "text/javascript"}


class ViewerServer(ThreadingHTTPServer):
    """`serve_forever`, then `server_close`; `url` is where it listens."""

    daemon_threads = True

    def __init__(self, library: Library, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens at once; port 0 takes a free one.

        Raises:
          OSError: the address is taken or not this machine's.
        """
        self.library = library
        self.host = host
        if ":" in host:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Address of the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server: an address, localhost, or the name it was given."""
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", host)
        if match is None or int(match[2] or 80) != self.server_address[1]:
            return False
        name = match[1].strip("[]").lower()
        if name in ("localhost", self.host.lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    protocol_version = "HTTP/1.1"
    server_version = "automem"
    sys_version = ""
    timeout = 60
    wbufsize = -1  # head and body leave together, at once
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        try:
            if not self.server.is_own(self.headers.get("Host", "")):
                raise _Refused(HTTPStatus.FORBIDDEN, "this Host is not served here")
            if self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
                if self.headers.get("Sec-Fetch-Mode") != "navigate":
                    raise _Refused(HTTPStatus.FORBIDDEN, "only this page may ask")
            split = urllib.parse.urlsplit(self.path)
            self._route(split.path, dict(urllib.parse.parse_qsl(split.query)))
        except _Refused as refusal:
            self._json({"error": str(refusal)}, refusal.status)
        except NoFrame as error:
            self._json({"error": str(error)}, HTTPStatus.NOT_FOUND)
        except KeyError:
            self._json({"error": "there is no such page"}, HTTPStatus.NOT_FOUND)
        except (TraceError, ValueError) as error:
            self._json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except OSError as error:
            self._json({"error": f"cannot be read: {error.strerror}"}, HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are the reader's own, and what they hold is not for a terminal."""

    def _route(self, path: str, query: dict[str, str]) -> None:
        if path == "/":
            self._send(page.served_page().encode(), "text/html; charset=utf-8")
            return
        if match := re.fullmatch(r"/static/([a-z]+\.(css|js))", path):
            body = page.static(match[1]).encode()
            self._send(body, f"{_TYPES[match[2]]}; charset=utf-8")
            return
        if path == "/api/runs":
            rows = [episode.row() for episode in self.server.library.refresh()]
            self._json({"title": self.server.library.name, "episodes": rows})
            return
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(f"/api/trace/{_ID}{pattern}", path):
                answer(self, match[1], *match.groups()[1:], query)
                return
        raise KeyError(path)

    def _about(self, name: str, query: dict[str, str]) -> None:
        self._json(self.server.library.index(name).about())

    def _summary(self, name: str, query: dict[str, str]) -> None:
        first = query.get("from", "0")
        if not first.isdecimal():
            raise ValueError("from: a step number")
        self._json(self.server.library.index(name).summary(int(first)))

    def _chunk(self, name: str, number: str, query: dict[str, str]) -> None:
        self._json(self.server.library.index(name).chunk(int(number)))

    def _lines(self, name: str, query: dict[str, str]) -> None:
        self._json(self.server.library.index(name).lines())

    def _search(self, name: str, query: dict[str, str]) -> None:
        text = query.get("q", "")[:_MOST_QUERY_CHARS]
        self._json(self.server.library.index(name).search(text, query.get("in", "all")))

    def _frame(self, name: str, step: str, query: dict[str, str]) -> None:
        picture, achieved = self.server.library.frame(name, int(step))
        told = urllib.parse.quote(json.dumps(achieved))
        self._send(picture, "image/png", {"X-Achievements": told})

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = json.dumps(value, separators=(",", ":")).encode()
        self._send(body, "application/json", status=status)

    def _send(
        self,
        body: bytes,
        kind: str,
        headers: dict[str, str] | None = None,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        self.send_response(status)
        always = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": page.SERVED_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        for name, value in (always | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


_ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    ("", _Handler._about),
    ("/summary", _Handler._summary),
    ("/chunk/([0-9]{1,7})", _Handler._chunk),
    ("/lines", _Handler._lines),
    ("/search", _Handler._search),
    ("/frame/([0-9]{1,8})", _Handler._frame),
)
