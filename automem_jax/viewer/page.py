"""The page itself, put together from `static/`: served in parts, or exported in one piece."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib import resources

STYLES = ("app.css", "panels.css")
SCRIPTS = (
    "dom.js",
    "list.js",
    "data.js",
    "source.js",
    "search.js",
    "timeline.js",
    "screen.js",
    "conversation.js",
    "memory.js",
    "lane.js",
    "sidebar.js",
    "app.js",
)
SERVED_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def static(name: str) -> str:
    """A file of the page.

    Raises:
      KeyError: the page has no such file.
    """
    if name not in (*STYLES, *SCRIPTS, "index.html"):
        raise KeyError(name)
    file = resources.files("automem_jax.viewer").joinpath("static", name)
    return file.read_text(encoding="utf-8")


def served_page() -> str:
    """The page that loads its parts and its data from the server."""
    styles = [f'<link rel="stylesheet" href="/static/{name}">' for name in STYLES]
    scripts = [f'<script src="/static/{name}"></script>' for name in SCRIPTS]
    return _filled("", styles, scripts)


def exported_page(blocks: Iterable[tuple[str, str]]) -> Iterable[str]:
    """The page with everything in it, in pieces to be written one after the other.

    Args:
      blocks: id -> base64 of the data that the page finds under it.
    """
    styles, scripts = [static(name) for name in STYLES], [static(name) for name in SCRIPTS]
    policy = (
        "default-src 'none'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
        f"script-src {_hashes(scripts)}; style-src {_hashes(styles)}"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
    head, tail = _filled(
        meta,
        [f"<style>{style}</style>" for style in styles],
        ["{data}", *(f"<script>{script}</script>" for script in scripts)],
    ).split("{data}")
    yield head
    for name, data in blocks:
        yield f'<script type="text/plain" id="{escape(name)}">{data}</script>\n'
    yield tail


def _filled(meta: str, styles: list[str], scripts: list[str]) -> str:
    page = static("index.html")
    for mark, lines in (("meta", [meta]), ("styles", styles), ("scripts", scripts)):
        page = page.replace(f"<!--{mark}-->", "\n".join(lines))
    return page


def _hashes(texts: Iterable[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
