"""Text from models, servers, games and files on a terminal: shown, never obeyed.

An escape sequence in a trace could move the cursor, set the window's title or rewrite a line. So all that
the `automem` command prints goes through streams that replace control characters; what draws on purpose
writes to the stream below.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_SUSPECT = re.compile(r"[^\x20-\x7e\n\t]")


def printable(text: object) -> str:
    """Text that cannot steer a terminal: control characters as their pictures; line ends and tabs stay."""
    return _SUSPECT.sub(_shown, str(text))


def _shown(found: re.Match) -> str:
    letter, code = found[0], ord(found[0])
    if letter.isprintable() and code != 0x7F:
        return letter
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def one_line(text: object) -> str:
    """Printable, with every run of blanks and line breaks as one blank."""
    return " ".join(printable(text).split())


class InertStream:
    """A text stream that makes what is written printable; everything else is the inner stream's.

    Attributes:
      raw: the inner stream, for those who draw on purpose.
    """

    def __init__(self, raw: TextIO):
        self.raw = raw

    def write(self, text: str) -> int:
        """Writes the text made printable; the number of characters given."""
        self.raw.write(printable(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes every line as `write` does."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)


@contextlib.contextmanager
def inert_output() -> Iterator[None]:
    """While it is open, nothing that is printed to standard output or error can steer a terminal."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (InertStream(raw(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw(stream: TextIO | None = None) -> TextIO:
    """The stream below (of standard output unless given), which passes everything on."""
    stream = sys.stdout if stream is None else stream
    return stream.raw if isinstance(stream, InertStream) else stream


class ConsoleStream(InertStream):
    """Whole lines go to a rich console as plain text; so they appear above what it draws.

    Attributes:
      console: where the lines go.
    """

    def __init__(self, console: Console):
        super().__init__(console.file)
        self.console = console
        self._begun = ""

    def write(self, text: str) -> int:
        """Prints the lines that are whole by now; the number of characters given."""
        from rich.text import Text

        *lines, self._begun = (self._begun + printable(text)).split("\n")
        for line in lines:
            self.console.print(Text(line), soft_wrap=True)
        return len(text)

    def end(self) -> None:
        """Prints what was begun and not ended."""
        if self._begun:
            self.write("\n")


def console(stream: TextIO | None = None, **options: Any) -> Console:
    """A rich console on the stream below. What it is given must be printable already; it reads no markup."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    if isinstance(stream, ConsoleStream) and not options:
        return stream.console
    return Console(file=raw(stream), highlight=False, markup=False, emoji=False, **options)
