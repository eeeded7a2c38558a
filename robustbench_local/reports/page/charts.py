"""Geometry of the page's charts: coordinates that the template draws."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.robustness_curves import CurvePanel, RobustnessCurve
from robustbench_local.reports.formatting.text import (
    format_axis_label,
    format_norm,
    format_percent,
    format_radius,
)

CHART_WIDTH, CHART_HEIGHT = 360, 260
LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN, BOTTOM_MARGIN = 44, 26, 12, 40
MIN_TICK_GAP = 36
"""Minimum distance between labels of the x axis, in units of the drawing; closer labels are omitted."""

_KEY_CHARACTERS = 10


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    position: float
    """Position in the units of the drawing."""
    label: str
    """Label; empty where there is no room."""


@dataclass(frozen=True, kw_only=True)
class ChartLine:
    """One model's curve."""

    subject: EvaluatedModel
    """The model and defense."""
    style_index: int
    """Index of its color and marker."""
    dotted: bool
    """Whether the line is drawn for comparison with another line of the same model."""
    band_points: str
    """Corners of the confidence band."""
    line_points: str
    """Corners of the line."""
    markers: tuple[tuple[float, float, str], ...]
    """(x, y, tooltip)."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A panel in the coordinates of the drawing."""

    title: str
    """Title of the panel."""
    key: str = ""
    """Key of its interactive form; empty if it has none."""
    description: str
    """Text alternative: the quantity and its values."""
    x_label: str
    """Label of the x axis."""
    x_ticks: tuple[Tick, ...]
    """Radii."""
    y_ticks: tuple[Tick, ...]
    """0 to 100%."""
    lines: tuple[ChartLine, ...]
    """One a model."""


def assign_styles(evidence: Evidence) -> dict[EvaluatedModel, int]:
    """Assign a color and marker to each model, the same in every drawing."""
    return {subject: index % 6 for index, subject in enumerate(evidence.subjects)}


def build_chart(panel: CurvePanel, style_by_model: dict[EvaluatedModel, int]) -> Chart:
    """Scale the curves of a panel to the drawing; y is always 0 to 100%."""
    largest = max(panel.radii)
    what = f"{panel.value_name.capitalize()} in percent. {panel.title}"
    return Chart(
        title=f"{format_norm(panel.norm)}, {panel.title}",
        key=build_chart_key("radius", panel.norm, panel.attack, panel.value_name),
        description=f"{what}: {'; '.join(map(_describe_curve, panel.curves))}",
        x_label=format_axis_label(panel.norm),
        x_ticks=_build_x_ticks(panel, largest),
        y_ticks=build_share_ticks(),
        lines=tuple(_build_line(curve, style_by_model[curve.subject], largest) for curve in panel.curves),
    )


def build_chart_key(kind: str, *parts: str) -> str:
    """Build the key of a chart on its page, from what it shows alone; names are in it as a hash."""
    text = "\n".join(parts).encode("utf-8", "backslashreplace")
    return f"{kind}-{hashlib.sha256(text).hexdigest()[:_KEY_CHARACTERS]}"


def build_share_ticks() -> tuple[Tick, ...]:
    """Build the ticks of the y axis, 0 to 100%."""
    return tuple(Tick(position=scale_y(share / 4), label=f"{25 * share}") for share in range(5))


def _build_line(curve: RobustnessCurve, style: int, largest: float) -> ChartLine:
    upper = [(scale_x(eps, largest), scale_y(estimate.high)) for eps, estimate in curve.points]
    lower = [(scale_x(eps, largest), scale_y(estimate.low)) for eps, estimate in curve.points]
    middle = [(scale_x(eps, largest), scale_y(estimate.value)) for eps, estimate in curve.points]
    dots = [
        (
            scale_x(eps, largest),
            scale_y(estimate.value),
            f"{curve}, eps {format_radius(eps)}: {format_percent(estimate.value)}",
        )
        for eps, estimate in curve.marked_points
    ]
    return ChartLine(
        subject=curve.subject,
        style_index=style,
        dotted=curve.dotted,
        band_points=format_points([*upper, *reversed(lower)]),
        line_points=format_points(middle),
        markers=tuple(dots),
    )


def _build_x_ticks(panel: CurvePanel, largest: float) -> tuple[Tick, ...]:
    """Build a tick at each radius; the largest keeps its label, others keep theirs where there is room."""
    ticks: list[Tick] = []
    room = float(CHART_WIDTH)
    for eps in reversed(panel.radii):
        position = scale_x(eps, largest)
        label = format_radius(eps) if position <= room else ""
        room = position - MIN_TICK_GAP if label else room
        ticks.append(Tick(position=position, label=label))
    return tuple(reversed(ticks))


def _describe_curve(curve: RobustnessCurve) -> str:
    values = ", ".join(
        f"{format_percent(estimate.value)} at {format_radius(eps)}" for eps, estimate in curve.marked_points
    )
    return f"{curve}: {values}"


def format_points(points: list[tuple[float, float]]) -> str:
    """Format corners for the drawing."""
    return " ".join(f"{x},{y}" for x, y in points)


def scale_x(value: float, largest: float) -> float:
    """Return the x coordinate of a value between 0 and ``largest``."""
    return round(LEFT_MARGIN + (CHART_WIDTH - LEFT_MARGIN - RIGHT_MARGIN) * value / largest, 1)


def scale_y(share: float) -> float:
    """Return the y coordinate of a share."""
    return round(TOP_MARGIN + (CHART_HEIGHT - TOP_MARGIN - BOTTOM_MARGIN) * (1 - share), 1)
