"""Writes the report of a work directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from automem_jax.files import write_atomically
from automem_jax.report import episode, loop2, loops, provenance, sections
from automem_jax.report.material import Material, read_material
from automem_jax.report.page import Html, join, missing, page, paragraph, tag

REPORT_FILE = "report.html"

# (anchor, title, how its body is made) of every section, in the order shown.
SECTIONS: tuple[tuple[str, str, Callable[[Material], Html]], ...] = (
    ("summary", "Summary", sections.summary),
    ("progression", "Progression", sections.progression),
    ("behaviour", "Behaviour", sections.behaviour),
    ("cue", "The cue", sections.cue),
    ("templates", "Template edits", loops.templates),
    ("selection", "Selection", loops.selection),
    ("training", "Training", loops.training),
    ("attribution", "Attribution", loop2.attribution),
    ("recipes", "Recipes and online rounds", loop2.recipes),
    ("episode", "Episode", episode.episode),
    ("cost", "Cost", provenance.cost),
    ("reproduce", "Reproduce", provenance.reproduce),
)


def write_report(workdir: str | Path, out: str | Path | None = None) -> Path:
    """Writes one self-contained HTML page on what the stages left in `workdir`.

    A stage that has not run yet gets a line that says so; a file that cannot be read is named in the
    page, and the rest is shown.

    Args:
      out: where the page goes; WORKDIR/report.html unless given.

    Returns:
      The page's path.

    Raises:
      NotADirectoryError: there is no such work directory.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise NotADirectoryError(
            f"work directory {str(workdir)!r} does not exist; name one that a stage wrote"
        )
    material = read_material(workdir)
    bodies = [(anchor, title, _body(make, material)) for anchor, title, make in SECTIONS]
    name = (material.config or {}).get("name") or (material.results or {}).get("experiment")
    title = f"AutoMem report: {name or workdir.resolve().name}"
    path = Path(out) if out is not None else workdir / REPORT_FILE
    write_atomically(path, page(title, _subtitle(material), bodies))
    return path


def _body(make: Callable[[Material], Html], material: Material) -> Html:
    """A section's body. Files of another version must not cost the reader the rest of the page."""
    try:
        return make(material)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        problem = f"{type(error).__name__}: {error}"
        return missing(
            f"Could not be shown: what is on disk is not as this version writes it ({problem})."
        )


def _subtitle(material: Material) -> Html:
    env = (material.config or {}).get("env") or {}
    parts = [p for p in (env.get("name"), env.get("task")) if p]
    line = paragraph(" / ".join(map(str, parts)), cls="quiet") if parts else Html("")
    if not material.problems:
        return line
    unique = list(dict.fromkeys(material.problems))
    listed = join(tag("li", problem) for problem in unique[:20])
    more = paragraph(f"and {len(unique) - 20} more") if len(unique) > 20 else ""
    heading = paragraph("Files that could not be read are left out of what follows:")
    return join([line, tag("div", heading, tag("ul", listed), more, cls="warning")])
