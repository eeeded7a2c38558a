"""Geometry of the page's drawings: numbers become places, the template draws them."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import Evidence, Subject
from robustbench_local.reports.analysis.robustness_curves import Curve, Panel
from robustbench_local.reports.formatting.text import axis, norm_sign, percent, radius

WIDTH, HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 26, 12, 40
TICK_GAP = 36
"""Labels on the x axis that would stand closer than this are left out."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    place: float
    """Where, in the drawing's units."""
    label: str
    """What it says; empty where there is no room."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model's curve."""

    subject: Subject
    """The model and defense."""
    style: int
    """Number of its colour and marker."""
    dotted: bool
    """Whether it stands beside another line of the model, to compare."""
    band: str
    """Corners of the confidence band."""
    path: str
    """Corners of the line."""
    dots: tuple[tuple[float, float, str], ...]
    """(x, y, what a pointer resting there is told)."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A panel ready to be drawn."""

    title: str
    """What is shown."""
    description: str
    """What is measured and the numbers, for those who cannot see the drawing."""
    axis: str
    """Label of the x axis."""
    x_ticks: tuple[Tick, ...]
    """Radii."""
    y_ticks: tuple[Tick, ...]
    """0 to 100 %."""
    lines: tuple[Line, ...]
    """One a model."""


def styles(evidence: Evidence) -> dict[Subject, int]:
    """Each model's colour and marker, the same in every drawing."""
    return {subject: place % 6 for place, subject in enumerate(evidence.subjects)}


def make_chart(panel: Panel, style_of: dict[Subject, int]) -> Chart:
    """A panel's curves, scaled to the drawing; y is always 0 to 100 %."""
    largest = max(panel.radii)
    what = f"{panel.measure.capitalize()} in percent. {panel.title}"
    return Chart(
        title=f"{norm_sign(panel.norm)}, {panel.title}",
        description=f"{what}: {'; '.join(map(_describe, panel.curves))}",
        axis=axis(panel.norm),
        x_ticks=_x_ticks(panel, largest),
        y_ticks=tuple(Tick(place=_y(share / 4), label=f"{25 * share}") for share in range(5)),
        lines=tuple(_line(curve, style_of[curve.subject], largest) for curve in panel.curves),
    )


def _line(curve: Curve, style: int, largest: float) -> Line:
    upper = [(_x(eps, largest), _y(estimate.high)) for eps, estimate in curve.points]
    lower = [(_x(eps, largest), _y(estimate.low)) for eps, estimate in curve.points]
    middle = [(_x(eps, largest), _y(estimate.value)) for eps, estimate in curve.points]
    dots = [
        (
            _x(eps, largest),
            _y(estimate.value),
            f"{curve}, eps {radius(eps)}: {percent(estimate.value)}",
        )
        for eps, estimate in curve.marked
    ]
    return Line(
        subject=curve.subject,
        style=style,
        dotted=curve.dotted,
        band=_corners([*upper, *reversed(lower)]),
        path=_corners(middle),
        dots=tuple(dots),
    )


def _x_ticks(panel: Panel, largest: float) -> tuple[Tick, ...]:
    """A tick at each radius; the largest keeps its label, others where there is room."""
    ticks: list[Tick] = []
    room = float(WIDTH)
    for eps in reversed(panel.radii):
        place = _x(eps, largest)
        label = radius(eps) if place <= room else ""
        room = place - TICK_GAP if label else room
        ticks.append(Tick(place=place, label=label))
    return tuple(reversed(ticks))


def _describe(curve: Curve) -> str:
    values = ", ".join(f"{percent(estimate.value)} at {radius(eps)}" for eps, estimate in curve.marked)
    return f"{curve}: {values}"


def _corners(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _x(eps: float, largest: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * eps / largest, 1)


def _y(share: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - share), 1)
