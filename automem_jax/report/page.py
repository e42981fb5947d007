"""HTML building blocks and the page around the sections.

Everything that enters a page passes through `escape`: text of models, environments and servers is
shown, never interpreted. The page forbids itself every outside connection (Content-Security-Policy)
and runs no script but its own, named by hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from importlib import resources

MAX_TEXT_CHARS = 20_000

# Control characters, lone surrogates and marks that reorder text; tab and newline stay.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


class Html(str):
    """Markup that is already safe; every other value is escaped on its way into a page."""


def escape(value: object) -> Html:
    """Text as HTML text or attribute value; invisible and control characters become visible."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(visible(str(value)), quote=True))


def visible(text: str) -> str:
    """Text whose invisible and control characters are shown as signs; tabs and line ends stay."""
    return _INVISIBLE.sub(_visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else f"<U+{code:04X}>"


def join(parts: Iterable[object], between: str = "") -> Html:
    """Escaped parts one after the other."""
    return Html(between.join(escape(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. `cls` is its class, `_` in attribute names stands for `-`; None leaves one out."""
    written = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def paragraph(*children: object, cls: str | None = None) -> Html:
    """A paragraph."""
    return tag("p", *children, cls=cls)


def missing(text: str) -> Html:
    """The line that a section without data consists of."""
    return paragraph(text, cls="missing")


def preformatted(text: object, cls: str | None = None) -> Html:
    """Text with its line breaks; the end of a very long one is left out, and it says so."""
    text = str(text)
    if len(text) > MAX_TEXT_CHARS:
        left = len(text) - MAX_TEXT_CHARS
        text = f"{text[:MAX_TEXT_CHARS]}\n[{left:,} more characters are in the trace]"
    return tag("pre", text, cls=cls)


def details(summary: object, *children: object, cls: str | None = None) -> Html:
    """Content that opens on demand."""
    return tag("details", tag("summary", summary), *children, cls=cls)


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    caption: str = "",
    numeric: bool = True,
) -> Html:
    """A table whose first column names its rows; further columns are figures where `numeric`."""
    cls = "figures" if numeric else None
    header = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    title = tag("caption", caption) if caption else Html("")
    content = tag("table", title, tag("thead", header), tag("tbody", *body), cls=cls)
    return tag(
        "div", content, cls="wide", tabindex="0", role="region", aria_label=caption or "table"
    )


def section(anchor: str, title: str, body: object) -> Html:
    """A numbered part of the page."""
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", heading, body, id=anchor, aria_labelledby=f"{anchor}-title")


def page(title: str, subtitle: object, sections: Sequence[tuple[str, str, Html]]) -> str:
    """The whole document. `sections` are (anchor, title, body)."""
    style, script = _static("page.css"), _static("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    bodies = [section(anchor, name, body) for anchor, name, body in sections]
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{escape(subtitle)}</header>\n"
        f'<nav aria-label="Sections">{join(links)}</nav>\n<main>\n'
        + "\n".join(bodies)
        + f"\n</main>\n<script>{script}</script>\n</body></html>\n"
    )


def _static(name: str) -> str:
    return resources.files("automem_jax.report").joinpath(name).read_text(encoding="utf-8")
