"""Final predictions of targeted attacks."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from robustbench_local.reports.analysis.confusion_by_target import TargetMatrix
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.figures.layout import (
    LINE_HEIGHT_INCHES,
    TITLE_POINTS,
    keep_left_to_right,
    measure_width_inches,
    wrap_lines,
)
from robustbench_local.reports.formatting.fonts import select_drawable_text
from robustbench_local.reports.formatting.text import (
    format_budget,
)

COUNT_COLOURMAP = LinearSegmentedColormap.from_list("counts", ["#fdfcfa", "#eea15f"])


def draw_target_matrix(matrix: TargetMatrix, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw the image counts of each model by final prediction."""
    rows = [row for row in matrix.rows if row.problem is None]
    columns = [
        select_drawable_text(target, f"target {number}")
        for number, target in enumerate(matrix.target_names, start=1)
    ]
    more = ["other targets"] if matrix.other_target_count else []
    counts = [
        [
            *row.target_counts,
            *([row.other_target_count] if more else []),
            row.other_class_count,
            row.robust_count,
        ]
        for row in rows
    ]
    labels = [
        keep_left_to_right(f"{names[row.subject]}: {select_drawable_text(row.source_name, 'source')}")
        for row in rows
    ]
    aside, heads = measure_width_inches(labels) + 0.45, [*columns, *more, "another class", "robust"]
    title = (
        f"{select_drawable_text(matrix.label, 'targeted attack')}, {_format_ball(matrix)}: final predictions"
    )
    width = max(
        2.6 + 0.75 * (len(columns) + 2), aside + max(0.65 * len(heads), measure_width_inches(title.split()))
    )
    lines = wrap_lines(title, width - aside)
    above = max(1.5, 0.65 * measure_width_inches(heads) + 0.5) + LINE_HEIGHT_INCHES * (len(lines) - 1)
    figure = Figure(figsize=(width, above + 0.45 * max(len(rows), 1)), layout="constrained")
    axes = figure.add_subplot()
    targets = len(columns) + len(more)
    for y, (row, line) in enumerate(zip(rows, counts, strict=True)):
        for x, count in enumerate(line):
            share = count / row.attack_success.n if x < targets and row.attack_success.n else 0.0
            axes.add_patch(
                mpl.patches.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=COUNT_COLOURMAP(share))
            )
            axes.text(x, y, str(count), ha="center", va="center")
    axes.set(xlim=(-0.5, targets + 1.5), ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.set_xticks(range(targets + 2), heads, rotation=40, ha="left")
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title("\n".join(lines), loc="left", fontsize=TITLE_POINTS, pad=12)
    return figure


def _format_ball(matrix: TargetMatrix) -> str:
    return format_budget(matrix.threat.norm, matrix.threat.eps)
