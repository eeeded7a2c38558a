"""Curves over the radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.robustness_curves import CurvePanel
from robustbench_local.reports.figures.layout import (
    LINE_COLOUR,
    LINE_HEIGHT_INCHES,
    measure_width_inches,
)
from robustbench_local.reports.formatting.fonts import select_drawable_text
from robustbench_local.reports.formatting.text import (
    format_axis_label,
    format_radius,
)

MODEL_COLOURS = ("#1b5f96", "#bd4f12", "#2a7a5a", "#83479a", "#776200", "#55534d")
MODEL_MARKERS = ("o", "s", "^", "D", "v", "|")
LEGEND_POINTS, LEGEND_WIDTH_INCHES = 8, 2.8
"""Font size of a legend, and the widest name with which it fits into a panel of curves."""


def draw_curves(panels: Sequence[CurvePanel], names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw panels side by side; the bands are confidence intervals."""
    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    subjects = list(names)
    for column, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), column)
        for curve in panel.curves:
            number = subjects.index(curve.subject) % len(MODEL_COLOURS)
            radii = [eps for eps, _ in curve.points]
            values = [100 * estimate.value for _, estimate in curve.points]
            low = [100 * estimate.low for _, estimate in curve.points]
            high = [100 * estimate.high for _, estimate in curve.points]
            look: dict[str, Any] = {"color": MODEL_COLOURS[number], "marker": MODEL_MARKERS[number]}
            if curve.dotted:
                look["linestyle"] = ":"
            else:
                axes.fill_between(radii, low, high, color=MODEL_COLOURS[number], alpha=0.17, linewidth=0)
            label = names[curve.subject] + (f", {curve.value_name}" if curve.value_name else "")
            axes.plot(radii, values, label=label, markevery=curve.mark_interval, **look)
        axes.set_xticks(panel.radii, [format_radius(eps) for eps in panel.radii])
        axes.set(ylim=(-2, 102), xlabel=format_axis_label(panel.norm))
        axes.set_title(select_drawable_text(panel.title, "attack"), loc="left", fontsize=9)
        axes.grid(axis="y", color=LINE_COLOUR, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"{panels[0].value_name}, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if measure_width_inches(labels, LEGEND_POINTS) > LEGEND_WIDTH_INCHES:
        figure.set_figheight(figure.get_figheight() + LINE_HEIGHT_INCHES * len(labels))
        figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=LEGEND_POINTS)
    else:
        figure.axes[0].legend(frameon=False, fontsize=LEGEND_POINTS)
    return figure
