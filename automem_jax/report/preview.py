"""Shows what of an example is learnt: its tokens, coloured by weight, in a terminal or as HTML.

Texts come from environments and models, so nothing in them is trusted: HTML is escaped, and control
characters are shown as pictures of themselves.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax import terminal
from automem_jax.files import write_atomically
from automem_jax.text.chat import Rendered, render_conversation
from automem_jax.text.tokenizer import Tokenizer

_STYLE = """
body { font: 14px/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
pre { font: 13px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  background: #f6f6f4; padding: .8rem; border-radius: 4px; }
.read { color: #55554f; } .control { color: #9a9a92; }
.learnt { color: #06351d; background: rgba(46, 160, 87, var(--w)); border-bottom: 2px solid #1f7a43; }
h2 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
@media (prefers-color-scheme: dark) { body { background: #16181a; color: #e4e4df; }
  pre { background: #202326; } .read { color: #b5b5ad; } .control { color: #77776f; }
  .learnt { color: #eafff2; } }
"""


@dataclass(frozen=True)
class Token:
    """One token as shown: printable text, loss weight, and whether it is a control token."""

    text: str
    weight: float
    control: bool


@dataclass(frozen=True)
class Preview:
    """One example: a title, its tokens, and what was counted."""

    title: str
    tokens: tuple[Token, ...]
    supervised: int
    sampled: int
    retokenised: int


def preview_example(
    example: dict[str, Any], tokenizer: Tokenizer, loss: str, title: str
) -> Preview:
    """An example as training would render it (before it is cut to a row's length).

    Raises:
      DataError, ValueError: it cannot be trained on; says why.
    """
    from automem_jax.training.data import supervised_spans

    messages, spans = supervised_spans(example, loss)
    sampled = {entry["message"]: entry["ids"] for entry in example.get("token_ids", ())}
    rendered = render_conversation(
        messages, tokenizer, [span for span in spans if span[2] > span[1]], sampled
    )
    scale = float(example.get("weight", 1.0))
    tokens = tuple(_tokens(rendered, tokenizer, scale))
    learnt = sum(token.weight > 0 for token in tokens)
    return Preview(title, tokens, learnt, rendered.sampled, rendered.retokenised)


def previews(
    examples_path: str | Path, tokenizer: Tokenizer, loss: str, count: int
) -> Iterator[Preview]:
    """The first `count` examples of a file."""
    from automem_jax.selection import load_examples

    for number, example in enumerate(
        itertools.islice(load_examples(examples_path), count), start=1
    ):
        source = example.get("provenance", {})
        place = ", ".join(f"{k} {source[k]}" for k in ("seed", "t", "phase", "turn") if k in source)
        title = f"example {number}" + (f": {place}" if place else "")
        yield preview_example(example, tokenizer, loss, title)


def print_previews(shown: Sequence[Preview], console: Any = None) -> None:
    """Prints examples with rich: learnt tokens on green (brighter for more weight), read ones plain."""
    from rich.text import Text

    console = console or terminal.console()
    for preview in shown:
        most = max((token.weight for token in preview.tokens), default=0.0)
        console.print(Text(terminal.printable(preview.title), style="bold"))
        console.print(Text(_counts(preview), style="dim"))
        text = Text()
        for token in preview.tokens:
            if token.weight > 0:
                style = "black on bright_green" if token.weight == most else "black on green"
            else:
                style = "bright_black" if token.control else ""
            text.append(token.text, style=style)
        console.print(text, end="\n\n")


def write_html(path: str | Path, shown: Sequence[Preview], loss: str) -> None:
    """Writes a page of its own, without scripts."""
    most = max((t.weight for preview in shown for t in preview.tokens), default=0.0) or 1.0
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        "<meta http-equiv=Content-Security-Policy "
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>what is learnt</title><style>{_STYLE}</style>",
        f"<h1>What is learnt</h1><p>loss {html.escape(loss)}; learnt tokens are on green, the more "
        "weight the darker; each token's tooltip has its weight.</p>",
    ]
    for preview in shown:
        parts.append(f"<h2>{html.escape(preview.title)}</h2><p>{html.escape(_counts(preview))}</p>")
        spans = []
        for token in preview.tokens:
            kind = "learnt" if token.weight > 0 else "control" if token.control else "read"
            extra = ""
            if token.weight > 0:
                extra = (
                    f" title='{token.weight:g}' style='--w:{0.15 + 0.5 * token.weight / most:.2f}'"
                )
            spans.append(f"<span class={kind}{extra}>{html.escape(token.text)}</span>")
        parts.append(f"<pre>{''.join(spans)}</pre>")
    write_atomically(path, "\n".join(parts) + "</html>\n")


def _tokens(rendered: Rendered, tokenizer: Tokenizer, scale: float) -> Iterator[Token]:
    """Tokens in order; those that together spell one character are shown with the last of them."""
    pieces = tokenizer.pieces(rendered.ids)
    if pieces is None:
        pieces = [tokenizer.decode([token]).encode() for token in rendered.ids]
    pending = b""
    for token, piece, weight in zip(rendered.ids, pieces, rendered.weights, strict=True):
        if not piece:
            yield Token(tokenizer.name(token), weight * scale, True)
            continue
        pending += piece
        try:
            text, pending = pending.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                text = ""
            else:
                text, pending = pending.decode("utf-8", "replace"), b""
        yield Token(terminal.printable(text), weight * scale, False)


def _counts(preview: Preview) -> str:
    text = f"{preview.supervised} of {len(preview.tokens)} tokens are learnt"
    if preview.sampled:
        text += f"; {preview.sampled} turns in the sampler's own tokens"
    if preview.retokenised:
        text += (
            f"; {preview.retokenised} turns encoded anew (cut inside a token, or another tokenizer)"
        )
    return text
