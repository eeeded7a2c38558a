"""Geometry of the chart of clean and robust accuracy, whose axes span the intervals of its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.accuracy_trade_off import TradeOff, TradeOffPoint
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.formatting.text import format_estimate
from robustbench_local.reports.page.charts import Tick, build_chart_key, format_points

WIDTH, HEIGHT = 360, 320
LEFT, RIGHT, TOP, BOTTOM = 44, 22, 14, 42
_GRID_SHARE = 0.1
"""Axes begin and end at multiples of this share."""
_MIN_SPAN_SHARE = 0.2
"""An axis is never shorter, so that a difference of a few points does not fill it."""
_MAX_TICKS = 6
_LABEL_OFFSETS = ((7, -7), (7, 15), (-16, -7), (-16, 15), (7, -19), (7, 27), (-16, -19), (-16, 27))
"""Where the number of a model may stand beside its mark; the first place without another number is taken."""
_LABEL_WIDTH, _LABEL_HEIGHT = 14, 11


@dataclass(frozen=True, kw_only=True)
class PlacedPoint:
    """One model in the coordinates of the drawing."""

    point: TradeOffPoint
    """The model."""
    style_index: int
    """Index of its color and marker."""
    x: float
    """Clean accuracy."""
    y: float
    """Robust accuracy."""
    x_interval: tuple[float, float]
    """Ends of the interval of the clean accuracy."""
    y_interval: tuple[float, float]
    """Ends of the interval of the robust accuracy."""
    label_place: tuple[float, float]
    """Lower left corner of its number."""
    tooltip: str
    """Name and numbers."""


@dataclass(frozen=True, kw_only=True)
class TradeOffChart:
    """All models in the coordinates of the drawing."""

    key: str
    """Key of its interactive form."""
    description: str
    """Text alternative: every point in words."""
    x_ticks: tuple[Tick, ...]
    """Clean accuracy in percent."""
    y_ticks: tuple[Tick, ...]
    """Robust accuracy in percent."""
    front_points: str
    """Corners of the line through the front."""
    points: tuple[PlacedPoint, ...]
    """In the order of the grid."""
    width: int = WIDTH
    """Width of the drawing in its own units."""
    height: int = HEIGHT
    """Height of the drawing."""
    left: int = LEFT
    """x of the left axis."""
    right: int = WIDTH - RIGHT
    """x of the right end."""
    top: int = TOP
    """y of the upper end."""
    bottom: int = HEIGHT - BOTTOM
    """y of the lower axis."""
    note: str
    """What part of the scale the axes show; empty if both show all of it."""


def build_trade_off_chart(trade_off: TradeOff, style_by_model: dict[EvaluatedModel, int]) -> TradeOffChart:
    """Scale the points of a trade-off to the drawing."""
    horizontal = choose_range(
        [(point.clean_accuracy.low, point.clean_accuracy.high) for point in trade_off.points]
    )
    vertical = choose_range(
        [(point.robust_accuracy.low, point.robust_accuracy.high) for point in trade_off.points]
    )
    placed: list[PlacedPoint] = []
    for point in trade_off.points:
        taken = [one.label_place for one in placed]
        placed.append(_place_point(point, style_by_model[point.subject], (horizontal, vertical), taken))
    places = {one.point.number: (one.x, one.y) for one in placed}
    is_whole = horizontal == vertical == (0.0, 1.0)
    return TradeOffChart(
        key=build_chart_key("trade-off", trade_off.threat.name, str(trade_off.threat)),
        description=f"Clean and robust accuracy under {trade_off.threat}: "
        + "; ".join(one.tooltip for one in placed),
        x_ticks=tuple(
            Tick(position=_scale_x(share, horizontal), label=f"{100 * share:.0f}")
            for share in _list_ticks(horizontal)
        ),
        y_ticks=tuple(
            Tick(position=_scale_y(share, vertical), label=f"{100 * share:.0f}")
            for share in _list_ticks(vertical)
        ),
        front_points=format_points([places[point.number] for point in trade_off.front]),
        points=tuple(placed),
        note="" if is_whole else "The axes show only the part of 0 to 100% in which the intervals lie.",
    )


def choose_range(intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Choose the range of an axis: multiples of 10% around all intervals, at least 20% long."""
    low = math.floor(min(low for low, _ in intervals) / _GRID_SHARE + 1e-9) * _GRID_SHARE
    high = math.ceil(max(high for _, high in intervals) / _GRID_SHARE - 1e-9) * _GRID_SHARE
    while high - low < _MIN_SPAN_SHARE - 1e-9:
        low, high = max(0.0, low - _GRID_SHARE), min(1.0, high + _GRID_SHARE)
    return round(low, 6), round(high, 6)


def _list_ticks(axis: tuple[float, float]) -> list[float]:
    low, high = axis
    steps = round((high - low) / _GRID_SHARE)
    stride = math.ceil(steps / (_MAX_TICKS - 1))
    return [low + _GRID_SHARE * step for step in range(0, steps + 1, stride)]


def _place_point(
    point: TradeOffPoint,
    style: int,
    axes: tuple[tuple[float, float], tuple[float, float]],
    taken: Sequence[tuple[float, float]],
) -> PlacedPoint:
    horizontal, vertical = axes
    clean, robust = point.clean_accuracy, point.robust_accuracy
    mark = f"; {point.caveat}" if point.caveat else "; dominated" if point.dominance else ""
    x, y = _scale_x(clean.value, horizontal), _scale_y(robust.value, vertical)
    return PlacedPoint(
        point=point,
        style_index=style,
        x=x,
        y=y,
        x_interval=(_scale_x(clean.low, horizontal), _scale_x(clean.high, horizontal)),
        y_interval=(_scale_y(robust.low, vertical), _scale_y(robust.high, vertical)),
        label_place=place_label(x, y, taken),
        tooltip=f"{point.number} {point.subject}: clean {format_estimate(clean)}, "
        f"robust {format_estimate(robust)}{mark}",
    )


def place_label(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Choose where the number of a mark at (x, y) stands: if possible where no earlier number stands."""
    places = [(round(x + across, 1), round(y + down, 1)) for across, down in _LABEL_OFFSETS]
    free = (
        place
        for place in places
        if all(
            abs(place[0] - other[0]) >= _LABEL_WIDTH or abs(place[1] - other[1]) >= _LABEL_HEIGHT
            for other in taken
        )
    )
    return next(free, places[0])


def _scale_x(share: float, axis: tuple[float, float]) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (share - axis[0]) / (axis[1] - axis[0]), 1)


def _scale_y(share: float, axis: tuple[float, float]) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (share - axis[0]) / (axis[1] - axis[0])), 1)
