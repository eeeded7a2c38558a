"""The heat map: models by attacks."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.heatmap import HeatMap
from robustbench_local.reports.figures.layout import (
    draw_entry,
    draw_label,
    fit_text,
    measure_width_inches,
)
from robustbench_local.reports.formatting.fonts import select_drawable_text
from robustbench_local.reports.formatting.text import (
    format_interval,
    format_percent,
    format_sample,
)
from robustbench_local.statistics import Estimate

COLUMN_HEAD_WIDTH_INCHES = 1.8
"""Maximum width of an attack's name at the head of a column."""


def draw_heatmap(heatmap: HeatMap, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw the robust accuracy of each model under each attack."""
    columns, rows = heatmap.columns, heatmap.rows
    heads = ["clean", *(f"{column.threat}\n{_format_column_head(column.label)}" for column in columns)]
    labels = [names[row.subject] for row in rows]
    title = _format_heatmap_title(heatmap)
    breadth = max(0.9, measure_width_inches([line for head in heads for line in head.split("\n")]) + 0.1)
    least = (
        measure_width_inches(labels) + 0.45 + max(breadth * len(heads), 1.15 * measure_width_inches([title]))
    )
    size = (max(2.4 + 1.15 * len(columns), least), 1.3 + 0.75 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-1.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    for y, row in enumerate(rows):
        draw_label(
            axes,
            -1,
            y,
            format_percent(row.clean_accuracy.value),
            _format_interval_and_n(row.clean_accuracy),
            weight="normal",
        )
        for x, (square, column) in enumerate(zip(row.entries, columns, strict=True)):
            draw_entry(
                axes,
                x,
                y,
                square,
                worst=column.is_worst_case,
                below=_format_interval_and_n(square.estimate, square.own_clean_accuracy),
            )
    axes.set_xticks(range(-1, len(columns)), heads)
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10, pad=12)
    return figure


def _format_column_head(label: str) -> str:
    return fit_text(select_drawable_text(label, "attack"), COLUMN_HEAD_WIDTH_INCHES)


def _format_heatmap_title(heatmap: HeatMap) -> str:
    squares = (square for row in heatmap.rows for square in row.entries)
    sizes = sorted({square.estimate.n for square in squares if square.estimate.is_known})
    numbers = " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
    return f"Robust accuracy with 95% intervals, n = {numbers or 0}"


def _format_interval_and_n(estimate: Estimate, clean: Estimate | None = None) -> str:
    """Format the interval and the number of images, which may differ between entries."""
    if not estimate.is_known:
        return format_interval(estimate)
    own = f"\nclean {format_percent(clean.value)}" if clean else ""
    return f"{format_interval(estimate)}\n{format_sample(estimate)}{own}"
