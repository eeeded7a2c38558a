"""Success over the number of submissions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.resubmission import ResubmissionCurve, group_by_attack
from robustbench_local.reports.figures.curves_figure import MODEL_COLOURS, MODEL_MARKERS
from robustbench_local.reports.figures.layout import LINE_COLOUR
from robustbench_local.reports.formatting.fonts import select_drawable_text


def draw_resubmission(curves: Sequence[ResubmissionCurve], names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw a panel for each attack; beyond the number of draws only the band is known."""
    groups, subjects = group_by_attack(curves), list(names)
    figure = Figure(figsize=(3.6 * len(groups), 3.4), layout="constrained")
    for column, (label, group) in enumerate(groups, start=1):
        axes = figure.add_subplot(1, len(groups), column)
        for curve in group:
            number = subjects.index(curve.subject) % len(MODEL_COLOURS)
            tries = [point.tries for point in curve.points]
            low = [100 * point.success.low for point in curve.points]
            high = [100 * point.success.high for point in curve.points]
            known = [point for point in curve.points if not point.is_bound]
            axes.fill_between(tries, low, high, color=MODEL_COLOURS[number], alpha=0.17, linewidth=0)
            axes.plot(
                [point.tries for point in known],
                [100 * point.success.value for point in known],
                label=names[curve.subject],
                color=MODEL_COLOURS[number],
                marker=MODEL_MARKERS[number],
            )
        axes.set_xscale("log")
        axes.set_xticks(
            [point.tries for point in group[0].table_points],
            [f"{point.tries:,}" for point in group[0].table_points],
        )
        axes.set(ylim=(-2, 102), xlabel="submissions N")
        axes.set_title(select_drawable_text(label, "attack"), loc="left", fontsize=9)
        axes.grid(axis="y", color=LINE_COLOUR, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("at least one success, %")
    return figure
