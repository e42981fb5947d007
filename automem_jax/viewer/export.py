"""One file that shows episodes anywhere: the page with its data in it, compressed."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from automem_jax.files import atomic_file
from automem_jax.traces.schema import TraceError
from automem_jax.viewer import page
from automem_jax.viewer.frames import NoFrame
from automem_jax.viewer.library import Library
from automem_jax.viewer.runs import Episode

MOST_BYTES = 28_000_000  # of data, so that the page stays below 30 MB
_FRAME_BYTES = 6_000_000  # of these, for pictures
_MISSES = 10  # episodes without room, after which no other is tried
_FRAME_STEPS = 300  # longer episodes are shown by their texts alone


def export(
    library: Library,
    path: str | Path,
    pattern: str = "*",
    *,
    frames: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[int, int]:
    """Writes one self-contained page.

    Episodes go in as far as MOST_BYTES reach, those of one seed together, failed ones and seeds on
    which runs differ first; the first one always does.

    Args:
      pattern: of RUN/EPISODE names, as a shell's; only these episodes.
      frames: also the game's pictures, of short episodes, as far as there is room.
      tell: is told what was left out.

    Returns:
      How many episodes the page holds, and how many match.

    Raises:
      ValueError: no episode matches.
    """
    chosen = [e for e in library.refresh() if fnmatchcase(_name(e), pattern)]
    if not chosen:
        raise ValueError(
            f"no episode is called {pattern!r}; names are RUN/EPISODE, * stands for any"
        )
    chosen = _telling_first(chosen)
    held: list[Episode] = []

    def blocks() -> Iterator[tuple[str, str]]:
        size = pictures = misses = 0
        for episode in chosen:
            try:
                parts = list(_trace_blocks(library, episode))
            except (TraceError, OSError) as error:
                tell(f"{_name(episode)} is left out: {error}")
                continue
            more = sum(len(data) for _, data in parts)
            if held and size + more > MOST_BYTES:
                misses += 1
                if misses == _MISSES:
                    break
                continue
            held.append(episode)
            size += more
            yield from parts
            if frames:
                for name, data in _frame_blocks(library, episode, tell):
                    pictures += len(data)
                    if pictures > _FRAME_BYTES or size + len(data) > MOST_BYTES:
                        tell(f"no room for all pictures of {_name(episode)}")
                        break
                    size += len(data)
                    yield name, data
        rows = [episode.row() for episode in held]
        about = {"title": library.name, "episodes": rows, "of": len(chosen)}
        yield "runs", pack(about)

    with atomic_file(path) as file:
        for piece in page.exported_page(blocks()):
            file.write(piece.encode("utf-8", "surrogatepass"))
    return len(held), len(chosen)


def pack(value: Any) -> str:
    """JSON, deflated, in base64: what static/source.js unpacks."""
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(text, 9)).decode()


def _trace_blocks(library: Library, episode: Episode) -> Iterator[tuple[str, str]]:
    index = library.index(episode.id)
    for number, chunk in enumerate(index.chunks()):
        yield f"{episode.id}-chunk-{number}", pack(chunk)
    yield f"{episode.id}-about", pack(index.about())
    yield f"{episode.id}-summary", pack(index.summary())
    yield f"{episode.id}-lines", pack(index.lines())


def _frame_blocks(
    library: Library, episode: Episode, tell: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    steps = library.index(episode.id).summary()["steps"]
    if steps > _FRAME_STEPS:
        tell(f"{_name(episode)}: {steps} steps are too many for pictures (at most {_FRAME_STEPS})")
        return
    for step in range(steps + 1):
        try:
            picture, achieved = library.frame(episode.id, step)
        except NoFrame as error:
            if step < steps:
                tell(f"{_name(episode)}: no pictures from step {step} on ({error})")
            return
        png = base64.b64encode(picture).decode()
        yield f"{episode.id}-frame-{step}", pack({"png": png, "achievements": achieved})


def _telling_first(episodes: Sequence[Episode]) -> list[Episode]:
    """By seed: first the seeds on which the runs' progression differs most, failures before others."""
    groups: dict[tuple, list[Episode]] = {}
    for episode in episodes:
        key = (str(episode.header.get("task")), str(episode.header.get("seed")))
        groups.setdefault(key, []).append(episode)

    def weight(group: list[Episode]) -> tuple[bool, float]:
        reached = [float((e.end or {}).get("progression") or 0.0) for e in group]
        failed = any((e.end or {}).get("failed") for e in group)
        return not failed, min(reached) - max(reached)

    return [episode for group in sorted(groups.values(), key=weight) for episode in group]


def _name(episode: Episode) -> str:
    return f"{episode.run}/{episode.header.get('episode', episode.path.stem)}"
