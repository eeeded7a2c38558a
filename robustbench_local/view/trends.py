"""A rate of a model over several runs: a series, its drawing and its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.formatting.text import format_estimate, format_percent, format_points
from robustbench_local.reports.page.charts import (
    BOTTOM_MARGIN,
    CHART_HEIGHT,
    LEFT_MARGIN,
    RIGHT_MARGIN,
    build_share_ticks,
    scale_y,
)
from robustbench_local.store.run_summary import SummaryRow
from robustbench_local.view.run_catalog import ListedRun

POINT_WIDTH = 76
"""Width of a run in the drawing."""
MIN_WIDTH = 360
MAX_LABELS = 12
"""Dates below the axis; of more runs, every second or third has one."""
_STYLES = 6
_DIGEST_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class TrendChoice:
    """A rate that can be followed over runs."""

    label: str
    """Label of the model."""
    threat: str
    """Name of the threat model."""
    quantity: str
    """What the rate is."""
    count: int
    """Number of runs that have it."""


@dataclass(frozen=True, kw_only=True)
class TrendPoint:
    """The rate in one run."""

    run: ListedRun
    """The run."""
    row: SummaryRow
    """Its rate."""
    series: int
    """Index of the series, of runs that can be compared."""
    change: str
    """Change in percentage points against the run before it in its series; empty for the first."""

    @property
    def code(self) -> str:
        """Version of the code that made it."""
        environment = {} if self.run.listing is None else self.run.listing.environment
        return str(environment.get("code") or environment.get("robustbench_local") or "")

    @property
    def digest(self) -> str:
        """First digits of the model's digest; empty if unknown."""
        return self.row.digest[:_DIGEST_DIGITS]


@dataclass(frozen=True, kw_only=True)
class TrendSeries:
    """Runs of the same model name, images, attacks and threat model: their rates can be compared."""

    name: str
    """Letter that the table has for it."""
    description: str
    """What its runs have in common."""
    points: tuple[TrendPoint, ...]
    """By time."""


@dataclass(frozen=True, kw_only=True)
class TrendMark:
    """A point of the drawing."""

    x: float
    """Horizontal position, in units of the drawing."""
    y: float
    """Vertical position of the rate."""
    high: float
    """Vertical position of the upper end of the interval."""
    low: float
    """Vertical position of its lower end."""
    title: str
    """Tooltip."""


@dataclass(frozen=True, kw_only=True)
class TrendLine:
    """A series in the drawing."""

    style: int
    """Index of its color and marker."""
    points: str
    """Corners of the line."""
    marks: tuple[TrendMark, ...]
    """Its points."""


@dataclass(frozen=True, kw_only=True)
class TrendChart:
    """The drawing."""

    width: float
    """Width, in units of the drawing."""
    description: str
    """Text alternative."""
    labels: tuple[tuple[float, str], ...]
    """Horizontal position and date."""
    lines: tuple[TrendLine, ...]
    """The series."""
    ticks: tuple[Any, ...]
    """0 to 100%."""


def list_trend_choices(runs: Iterable[ListedRun]) -> list[TrendChoice]:
    """List the rates of all runs, those of most runs first."""
    counts: dict[tuple[str, str, str], set[str]] = {}
    for run, row in _iterate_rows(runs):
        counts.setdefault((row.label, row.threat, row.quantity), set()).add(run.found.id)
    choices = [
        TrendChoice(label=label, threat=threat, quantity=quantity, count=len(ids))
        for (label, threat, quantity), ids in counts.items()
    ]
    return sorted(choices, key=lambda one: (-one.count, one.label, one.threat, one.quantity))


def build_series(runs: Iterable[ListedRun], *, label: str, threat: str, quantity: str) -> list[TrendSeries]:
    """Build the series of a rate, the longest first.

    Args:
        runs: The runs.
        label: Label of the model.
        threat: Name of the threat model.
        quantity: What the rate is.
    """
    grouped: dict[tuple[object, ...], list[tuple[ListedRun, SummaryRow]]] = {}
    for run, row in _iterate_rows(runs):
        if (row.label, row.threat, row.quantity) == (label, threat, quantity):
            key = (*row.series_key, row.is_complete, _get_data_key(run))
            grouped.setdefault(key, []).append((run, row))
    ranked = sorted(grouped.values(), key=lambda rows: (-len(rows), min(run.moment for run, _ in rows)))
    return [
        TrendSeries(
            name=_name_series(index), description=_describe_series(rows), points=_build_points(rows, index)
        )
        for index, rows in enumerate(ranked)
    ]


def order_points(series: Sequence[TrendSeries]) -> list[TrendPoint]:
    """Return the points of all series by time."""
    points = [point for one in series for point in one.points]
    return sorted(points, key=lambda point: (point.run.moment, point.run.name, point.series))


def build_trend_chart(series: Sequence[TrendSeries], title: str) -> TrendChart:
    """Build the drawing: one step to the right is one run later, and y is 0 to 100%."""
    points = order_points(series)
    order = {(point.run.found.id, point.series): index for index, point in enumerate(points)}
    width = max(MIN_WIDTH, LEFT_MARGIN + RIGHT_MARGIN + POINT_WIDTH * len(points))
    step = (width - LEFT_MARGIN - RIGHT_MARGIN) / max(len(points), 1)

    def place(point: TrendPoint) -> float:
        return round(LEFT_MARGIN + step * (order[point.run.found.id, point.series] + 0.5), 1)

    every = -(-len(points) // MAX_LABELS) or 1
    return TrendChart(
        width=width,
        description=f"{title}: {'; '.join(_describe_point(point) for point in points)}",
        labels=tuple((place(point), point.run.date) for point in points[::every]),
        lines=tuple(_build_line(one, index, place) for index, one in enumerate(series)),
        ticks=build_share_ticks(),
    )


def get_chart_sizes() -> Mapping[str, int]:
    """Return the margins of the drawing for its template."""
    return {"height": CHART_HEIGHT, "left": LEFT_MARGIN, "right": RIGHT_MARGIN, "bottom": BOTTOM_MARGIN}


def _build_line(series: TrendSeries, index: int, place: Any) -> TrendLine:
    marks = tuple(
        TrendMark(
            x=place(point),
            y=scale_y(point.row.rate.value),
            high=scale_y(point.row.rate.high),
            low=scale_y(point.row.rate.low),
            title=_describe_point(point),
        )
        for point in series.points
    )
    return TrendLine(
        style=index % _STYLES, points=" ".join(f"{mark.x},{mark.y}" for mark in marks), marks=marks
    )


def _iterate_rows(runs: Iterable[ListedRun]) -> Iterable[tuple[ListedRun, SummaryRow]]:
    for run in runs:
        if run.summary is not None:
            for row in run.summary.rows:
                if row.rate.is_known:
                    yield run, row


def _get_data_key(run: ListedRun) -> tuple[str, ...]:
    """Return what tells images apart: their digest, or what is known of runs that have none."""
    data = {} if run.listing is None else run.listing.data
    if data.get("digest"):
        return (str(data["digest"]),)
    if run.listing is None:
        return ()
    return ("unknown digest", run.found.id)


def _build_points(rows: Sequence[tuple[ListedRun, SummaryRow]], series: int) -> tuple[TrendPoint, ...]:
    ordered = sorted(rows, key=lambda entry: (entry[0].moment, entry[0].name))
    points: list[TrendPoint] = []
    for run, row in ordered:
        change = ""
        if points:
            change = format_points(row.rate.value - points[-1].row.rate.value)
        points.append(TrendPoint(run=run, row=row, series=series, change=change))
    return tuple(points)


def _describe_series(rows: Sequence[tuple[ListedRun, SummaryRow]]) -> str:
    run, row = rows[0]
    data = {} if run.listing is None else run.listing.data
    digest = str(data.get("digest") or "")[:_DIGEST_DIGITS]
    images = f"{run.data_name} ({digest})" if digest else f"{run.data_name}, without a digest"
    attacks = ", ".join(row.attacks) or "no attack"
    incomplete = "" if row.is_complete else "; not every attack of the grid counts"
    return f"{images}, {format_count(row.rate.n, 'image')}; {row.threat_text}; {attacks}{incomplete}"


def _describe_point(point: TrendPoint) -> str:
    mark = f", {point.row.mark}" if point.row.mark else ""
    return f"{point.run.date}, {point.run.name}: {format_estimate(point.row.rate)}{mark}"


def _name_series(index: int) -> str:
    """Name a series by a letter, and a number beyond the last one."""
    letter = chr(ord("A") + index % 26)
    return letter if index < 26 else f"{letter}{index // 26}"


def describe_last(series: Sequence[TrendSeries]) -> str:
    """Describe the last run of the longest series against its first, in a sentence; empty for one run."""
    if not series or len(series[0].points) < 2:
        return ""
    first, last = series[0].points[0].row.rate, series[0].points[-1].row.rate
    difference, count = format_points(last.value - first.value), format_count(len(series[0].points), "run")
    ends = f"{format_percent(first.value)} to {format_percent(last.value)}"
    return (
        f"From {ends}, {difference} percentage points, over {count} that can be compared. Compare two of "
        f"them to see whether the difference is significant."
    )
