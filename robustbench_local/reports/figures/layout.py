"""Shared parts of the figures: colors, text sizes, empty tables and their entries."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from robustbench_local.reports.analysis.heatmap import HeatMapEntry
from robustbench_local.reports.formatting.fonts import shorten_text
from robustbench_local.reports.formatting.text import (
    format_interval,
    format_percent,
)

TEXT_COLOUR, MUTED_COLOUR, LINE_COLOUR = "#20201d", "#5d5b54", "#d9d5cb"
SHARE_COLOURMAP = LinearSegmentedColormap.from_list("robust", ["#eea15f", "#f4f0e7", "#79b0d6"])
TITLE_POINTS = 9
"""Font size of titles and of row and column names."""
LINE_HEIGHT_INCHES = 0.17
"""Height of an additional title line."""
MIN_TITLE_WIDTH_INCHES = 4.5
"""Width below which a title is not wrapped, even above a narrower table."""


def build_table_axes(columns: Sequence[str], rows: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """Build an empty table with column names at the top and row names at the left."""
    across = max(1.05, measure_width_inches(columns) + 0.15)
    width = max(2.2, measure_width_inches(rows) + 0.5) + across * len(columns)
    width = max(
        width,
        min(measure_width_inches([title]), MIN_TITLE_WIDTH_INCHES) + 0.3,
        measure_width_inches(title.split()) + 0.3,
    )
    lines = wrap_lines(title, width - 0.2)
    size = (width, 1.1 + 0.5 * len(rows) + LINE_HEIGHT_INCHES * (len(lines) - 1))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=TITLE_POINTS)
    return figure, axes


def fit_text(text: str, inches: float, size: float = TITLE_POINTS) -> str:
    """Shorten a text to this width in inches by omitting its middle."""
    most = len(text)
    while most > 4 and measure_width_inches([text], size) > inches:
        most = min(most - 1, int(most * max(inches / measure_width_inches([text], size), 0.5)))
        text = shorten_text(text, max(most, 4))
    return text


def keep_left_to_right(text: str) -> str:
    """Let a label that begins with, or holds, right-to-left letters keep the order of its parts."""
    turns = any(unicodedata.bidirectional(sign) in {"R", "AL"} for sign in text)
    return f"\N{LEFT-TO-RIGHT MARK}{text}" if turns else text


def measure_width_inches(texts: Sequence[str], size: float = TITLE_POINTS) -> float:
    """Measure the width of the widest text in inches, by default at the size of titles."""
    figure = Figure()
    pen = _make_renderer()
    drawn = (figure.text(0, 0, text, fontsize=size) for text in texts)
    return max((text.get_window_extent(pen).width / figure.dpi for text in drawn), default=0.0)


@cache
def _make_renderer() -> Any:
    """Make a renderer that measures texts: its canvas takes longer to make than a text to measure."""
    return FigureCanvasAgg(Figure()).get_renderer()  # type: ignore[no-untyped-call]


def wrap_lines(text: str, width: float) -> list[str]:
    """Wrap a text to this width in inches; a longer word gets its own line."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and measure_width_inches([longer]) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_entry(
    axes: Axes,
    x: int,
    y: int,
    square: HeatMapEntry,
    *,
    worst: bool = False,
    colours: Colormap = SHARE_COLOURMAP,
    below: str = "",
) -> None:
    """Draw a table entry: a share on its color, or the status where there is none."""
    known = square.estimate.is_known
    box = mpl.patches.Rectangle(
        (x - 0.47, y - 0.45),
        0.94,
        0.9,
        facecolor=colours(square.estimate.value) if known else "none",
        edgecolor=TEXT_COLOUR if worst else LINE_COLOUR,
        linewidth=1.2 if worst else 0.5,
        hatch=None if known else "////",
    )
    axes.add_patch(box)
    if known:
        below = below or format_interval(square.estimate)
        if square.mark:
            first, *others = below.split("\n")
            numbers = [first, ", ".join(others)] if others else [first]
            below = "\n".join([*numbers, square.mark.partition(" (")[0]])
        draw_label(axes, x, y, format_percent(square.estimate.value), below, weight="bold")
    else:
        axes.text(
            x, y, square.status_text.replace(", ", "\n"), ha="center", va="center", backgroundcolor="white"
        )


def draw_label(axes: Axes, x: int, y: int, value: str, below: str, *, weight: str) -> None:
    """Draw a value, and smaller text below it."""
    axes.text(x, y - 0.12, value, ha="center", va="center", weight=weight)
    axes.text(x, y + 0.22, below, ha="center", va="center", fontsize=7)
