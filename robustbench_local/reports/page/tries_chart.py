"""Geometry of the charts over the number of submissions, whose x axis is logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.resubmission import ResubmissionCurve, group_by_attack
from robustbench_local.reports.formatting.text import format_interval, format_percent
from robustbench_local.reports.page.charts import (
    Chart,
    ChartLine,
    Tick,
    build_share_ticks,
    format_points,
    scale_x,
    scale_y,
)
from robustbench_local.resubmission_statistics import MAX_TRIES, ResubmissionPoint


def build_tries_charts(
    curves: Sequence[ResubmissionCurve], style_by_model: dict[EvaluatedModel, int]
) -> list[Chart]:
    """Build one chart for each attack, with a line for each model."""
    return [
        Chart(
            title=label,
            description=f"Success of N submissions in percent. {label}: "
            + "; ".join(f"{curve.subject}: {_describe_points(curve.table_points)}" for curve in group),
            x_label="submissions N",
            x_ticks=tuple(
                Tick(position=_scale_tries(point.tries), label=f"{point.tries:,}")
                for point in group[0].table_points
            ),
            y_ticks=build_share_ticks(),
            lines=tuple(_build_line(curve, style_by_model[curve.subject]) for curve in group),
        )
        for label, group in group_by_attack(curves)
    ]


def _build_line(curve: ResubmissionCurve, style: int) -> ChartLine:
    """Build the band of all points, and the line and marks of those that are no bounds."""
    places = [(_scale_tries(point.tries), point) for point in curve.points]
    upper = [(x, scale_y(point.success.high)) for x, point in places]
    lower = [(x, scale_y(point.success.low)) for x, point in places]
    known = [(x, scale_y(point.success.value), point) for x, point in places if not point.is_bound]
    return ChartLine(
        subject=curve.subject,
        style_index=style,
        dotted=False,
        band_points=format_points([*upper, *reversed(lower)]),
        line_points=format_points([(x, y) for x, y, _ in known]),
        markers=tuple(
            (x, y, f"{curve.subject}, N = {point.tries:,}: {format_percent(point.success.value)}")
            for x, y, point in known
        ),
    )


def _describe_points(points: Sequence[ResubmissionPoint]) -> str:
    return ", ".join(
        f"{format_interval(point.success) if point.is_bound else format_percent(point.success.value)} "
        f"at {point.tries}"
        for point in points
    )


def _scale_tries(tries: int) -> float:
    return scale_x(math.log10(tries), math.log10(MAX_TRIES))
