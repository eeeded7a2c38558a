"""Clean and robust accuracy of the models."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from robustbench_local.reports.analysis.accuracy_trade_off import TradeOff
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.figures.curves_figure import LEGEND_POINTS, MODEL_COLOURS, MODEL_MARKERS
from robustbench_local.reports.figures.layout import (
    LINE_COLOUR,
    LINE_HEIGHT_INCHES,
    MUTED_COLOUR,
    fit_text,
    keep_left_to_right,
)

_LEGEND_WIDTH_INCHES = 3.6


def draw_trade_off(trade_off: TradeOff, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw each model as a cross of its intervals; the line is the observed front, hollow: dominated."""
    height = 3.4 + LINE_HEIGHT_INCHES * len(trade_off.points)
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.add_subplot()
    subjects = list(names)
    for point in trade_off.points:
        number = subjects.index(point.subject) % len(MODEL_COLOURS)
        clean, robust = point.clean_accuracy, point.robust_accuracy
        colour = MODEL_COLOURS[number]
        is_hollow = bool(point.dominance or point.caveat)
        axes.errorbar(
            [100 * clean.value],
            [100 * robust.value],
            xerr=[[100 * (clean.value - clean.low)], [100 * (clean.high - clean.value)]],
            yerr=[[100 * (robust.value - robust.low)], [100 * (robust.high - robust.value)]],
            color=colour,
            marker=MODEL_MARKERS[number],
            markerfacecolor="white" if is_hollow else colour,
            elinewidth=0.7,
            linestyle="none",
            label=keep_left_to_right(
                fit_text(f"{point.number} {names[point.subject]}", _LEGEND_WIDTH_INCHES, LEGEND_POINTS)
            ),
        )
        axes.annotate(
            trade_off.label_by_number[point.number],
            (100 * clean.value, 100 * robust.value),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=LEGEND_POINTS,
        )
    front = trade_off.front
    axes.plot(
        [100 * point.clean_accuracy.value for point in front],
        [100 * point.robust_accuracy.value for point in front],
        color=MUTED_COLOUR,
        linewidth=1,
        zorder=1,
    )
    axes.set(xlabel="clean accuracy, %", ylabel="robust accuracy, worst case, %")
    axes.set_title(str(trade_off.threat), loc="left", fontsize=9)
    axes.grid(color=LINE_COLOUR, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", frameon=False, fontsize=LEGEND_POINTS)
    return figure
