"""Figures as inline SVG, drawn by matplotlib without a display.

Colours are variables of page.css, so that one figure serves light, dark and print. Text stays text:
it can be read aloud, searched and copied.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from automem_jax.report.page import Html, escape, tag

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "automem",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "x",
}
_WIDTH_IN = 7.2
_NARROW_IN = 3.9  # a phone's: drawn again, so that letters stay as large as the text around them

# matplotlib draws in stand-in colours, which become CSS variables in the SVG.
_VARIABLES = (
    "--ink",
    "--grid",
    "--ground",
    "--gate",
    "--arm-v0",
    "--arm-best",
    "--arm-specialist",
    "--arm-control",
    "--arm-other",
)
_STAND_IN = {name: f"#01020{index:x}" for index, name in enumerate(_VARIABLES)}
_INK, _GRID, _GROUND = (_STAND_IN[name] for name in ("--ink", "--grid", "--ground"))


@dataclass(frozen=True)
class Point:
    """One row of a dot plot, in percent or percentage points.

    Attributes:
      label: at the left of the row.
      value: where the dot stands.
      interval: ends of the error bar; None for none.
      colour: variable of page.css. marker: matplotlib's. hollow: only the marker's outline.
      note: at the right of the row.
    """

    label: str
    value: float
    interval: tuple[float, float] | None
    colour: str
    marker: str = "o"
    hollow: bool = False
    note: str = ""


def dot_plot(
    name: str,
    groups: Mapping[str, Sequence[Point]],
    axis: str,
    description: str,
    *,
    limits: tuple[float, float] | None = None,
    zero_line: bool = False,
) -> Html:
    """Rows of dots with error bars, top to bottom, in titled groups that share an axis.

    Args:
      name: prefix of the SVG's ids; unique in the page.
      axis: label of the horizontal axis. limits: its ends, unless they follow from the data.
      description: what the figure shows, in words, for who cannot see it.
    """
    rows = [(title, list(points)) for title, points in groups.items() if points]

    def draw(narrow: bool) -> Figure:
        figure, axes = _dots(rows, narrow)
        if limits:
            axes.set_xlim(*limits)
        if zero_line:
            axes.axvline(0, color=_INK, linewidth=1)
        axes.set_xlabel(axis)
        axes.grid(True, axis="x", color=_GRID, linewidth=0.7)
        axes.spines["left"].set_visible(False)
        return figure

    return _drawn(name, draw, description)


def _dots(rows: Sequence[tuple[str, Sequence[Point]]], narrow: bool) -> tuple[Figure, Any]:
    """Labels stand at the left and notes at the right; where it is narrow, both above their row."""
    slots = sum(len(points) * (1.7 if narrow else 1) + 1 for _, points in rows)
    figure, axes = _axes(0.34 * slots + 0.75, narrow)

    def write(x: float, y: float, text: str, **more: Any) -> None:
        place = axes.get_yaxis_transform()
        axes.text(x, y, text, transform=place, va="center", color=_INK, **more)

    labels: list[tuple[float, str]] = []
    at = 0.0
    for title, points in rows:
        if title:
            write(0, at, title, fontweight="bold")
        for point in points:
            at += 1.7 if narrow else 1
            if narrow:
                write(0, at - 0.75, _short(point.label), fontsize=9)
                write(1, at - 0.75, _short(point.note), fontsize=9, ha="right")
            else:
                labels.append((at, _short(point.label)))
                write(1.01, at, _short(point.note), fontsize=9)
            _draw(axes, at, point)
        at += 1
    axes.set_ylim(at - 0.3, -0.6 if any(title for title, _ in rows) else 0.3)
    axes.set_yticks([y for y, _ in labels], [text for _, text in labels])
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _draw(axes, at: float, point: Point) -> None:
    colour = _STAND_IN[point.colour]
    if point.interval:
        low, high = point.interval
        axes.plot([low, high], [at, at], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([low, high], [at, at], color=colour, linestyle="", marker="|", markersize=9)
    axes.plot(
        [point.value],
        [at],
        color=colour,
        linestyle="",
        marker=point.marker,
        markersize=8,
        markeredgewidth=1.6,
        markerfacecolor=_GROUND if point.hollow else colour,
    )


def line_plot(
    name: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float], str]],
    axes_labels: tuple[str, str],
    description: str,
) -> Html:
    """Curves of (x, y, colour) by title; where there are many points, thin, with a moving mean on top."""

    def draw(narrow: bool) -> Figure:
        figure, axes = _axes(3.2, narrow)
        styles = ("-", "--", "-.", ":")
        for index, (title, (x, y, colour)) in enumerate(series.items()):
            shade = _STAND_IN[colour]
            window = max(1, len(y) // 20)
            mean = _moving_mean(y, window)
            if window > 1:
                axes.plot(x, y, color=shade, linewidth=0.7, alpha=0.35)
            axes.plot(
                x,
                mean,
                color=shade,
                linewidth=2,
                linestyle=styles[index % len(styles)],
                marker="o" if len(x) == 1 else "",
                label=_short(title),
            )
        axes.set_xlabel(axes_labels[0])
        axes.set_ylabel(axes_labels[1])
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.grid(True, axis="y", color=_GRID, linewidth=0.7)
        axes.legend(frameon=False, labelcolor=_INK)
        return figure

    return _drawn(name, draw, description)


def _moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values (fewer at the start)."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))
    ]


def _axes(height_in: float, narrow: bool) -> tuple[Figure, Any]:
    width_in = _NARROW_IN if narrow else _WIDTH_IN
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.patch.set_alpha(0)
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    return figure, axes


def _short(text: str) -> str:
    """A label in the letters that the figure's font has, on one line, not too long."""
    text = "".join(
        c if c.isprintable() and ord(c) < 0x2500 else "?" for c in " ".join(text.split())
    )
    return text if len(text) <= 40 else text[:39] + "…"


def _drawn(name: str, draw: Callable[[bool], Figure], description: str) -> Html:
    """The figure for a broad and for a narrow page; page.css shows one of them."""
    with matplotlib.rc_context(_STYLE):
        broad = _svg(draw(False), name, "broad", description)
        narrow = _svg(draw(True), f"{name}-narrow", "narrow", description)
    return tag("figure", broad, narrow, tag("figcaption", description))


def _svg(figure: Figure, name: str, cls: str, description: str) -> Html:
    """The drawing alone: no prolog or metadata, ids prefixed by the figure's name."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for variable, stand_in in _STAND_IN.items():
        svg = svg.replace(stand_in, f"var({variable})")
    label = f'<svg class="{cls}" role="img" aria-label="{escape(description)}" '
    return Html(svg.replace("<svg ", label, 1))
