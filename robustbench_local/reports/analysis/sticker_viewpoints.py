"""Sticker success over distance and viewing angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from robustbench_local.reports.analysis.heatmap import HeatMapEntry
from robustbench_local.reports.analysis.sticker_views import SignViews
from robustbench_local.reports.formatting.text import format_count, format_estimate
from robustbench_local.statistics import Estimate, compute_clopper_pearson

DISTANCE_BINS = 4
"""Number of distance bins; their edges have equal ratios."""
ANGLE_EDGES_DEGREES = (0.0, 15.0, 30.0, 90.0)
"""Edges of the bins of the angle, in degrees."""
SIGN_SIDE_SHARE = 0.8
"""Side of the sign over the side of the camera's frame."""
ALPHA = 0.05
"""Probability that one of the bins' simultaneous intervals misses its value."""
MIN_VIEWS_PER_BIN = 10
"""Minimum views of a bin that may be named the worst."""


@dataclass(frozen=True, kw_only=True)
class WorstBin:
    """The bin of the highest success."""

    position: str
    """Distance and angle in words."""
    estimate: Estimate
    """Success in the bin; the interval holds for all bins simultaneously."""
    bin_count: int
    """Number of bins that were compared."""

    @property
    def interval_note(self) -> str:
        """Description of the interval."""
        return f"interval corrected for {format_count(self.bin_count, 'bin')}"

    def __str__(self) -> str:
        return f"{format_estimate(self.estimate)} {self.position}, {self.interval_note}"


@dataclass(frozen=True, kw_only=True)
class ViewMap:
    """Success over distance (columns, from far to near) and angle (rows)."""

    distance_labels: tuple[str, ...]
    """The columns, in words."""
    angle_labels: tuple[str, ...]
    """The rows, in words."""
    rows: tuple[tuple[HeatMapEntry, ...], ...]
    """One per bin of the angle."""
    worst_bin: WorstBin | None
    """The bin of the highest success, among bins of enough views; None without any success."""
    note: str = ""
    """A note on the columns, in one sentence."""


def build_view_map(views: Sequence[SignViews], targets: Sequence[int], shape: Sequence[int] = ()) -> ViewMap:
    """Build the success of each bin, over the views in which the clean sign is classified correctly.

    Args:
        views: The test views of each sign.
        targets: Target classes; empty: any wrong class.
        shape: Channels, height and width of the images; empty if unknown.
    """
    if not views:
        return ViewMap(distance_labels=(), angle_labels=(), rows=(), worst_bin=None)
    distance = np.concatenate([sign_views.size_pixels[sign_views.clean_correct] for sign_views in views])
    angle = np.concatenate([sign_views.angle_degrees[sign_views.clean_correct] for sign_views in views])
    hits = np.concatenate([sign_views.mark_successes("sticker", targets) for sign_views in views])
    every = np.concatenate([sign_views.size_pixels for sign_views in views])
    edges = np.geomspace(np.floor(every.min()), np.ceil(every.max()), DISTANCE_BINS + 1)
    column = np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, DISTANCE_BINS - 1)
    row = np.searchsorted(np.array(ANGLE_EDGES_DEGREES), angle, side="right") - 1
    squares = tuple(
        tuple(_build_entry(hits[(row == y) & (column == x)]) for x in range(DISTANCE_BINS))
        for y in range(len(ANGLE_EDGES_DEGREES) - 1)
    )
    columns = tuple(_format_range(low, high) for low, high in pairwise(edges))
    rows = tuple(_format_range(low, high) for low, high in pairwise(ANGLE_EDGES_DEGREES))
    return ViewMap(
        distance_labels=columns,
        angle_labels=rows,
        rows=squares,
        worst_bin=_find_worst_bin(columns, rows, squares),
        note=_describe_resolution(shape, edges[-1]),
    )


def _build_entry(hits: np.ndarray) -> HeatMapEntry:
    return HeatMapEntry(estimate=compute_clopper_pearson(int(hits.sum()), len(hits)), status_text="no view")


def _format_range(low: float, high: float) -> str:
    return f"{low:.0f} and more" if high >= ANGLE_EDGES_DEGREES[-1] else f"{low:.0f} to {high:.0f}"


def _find_worst_bin(
    columns: Sequence[str], rows: Sequence[str], squares: Sequence[Sequence[HeatMapEntry]]
) -> WorstBin | None:
    """Find the bin of the highest success, with an interval corrected for the number of bins."""
    named = [
        (square.estimate, f"at {column} px and {row} degrees")
        for row, line in zip(rows, squares, strict=True)
        for column, square in zip(columns, line, strict=True)
        if square.estimate.n >= MIN_VIEWS_PER_BIN
    ]
    found, where = max(named, key=lambda one: one[0].value, default=(None, ""))
    if found is None or not found.count:
        return None
    corrected = compute_clopper_pearson(found.count, found.n, level=1 - ALPHA / len(named))
    return WorstBin(position=where, estimate=corrected, bin_count=len(named))


def _describe_resolution(shape: Sequence[int], nearest: float) -> str:
    """Describe the size from which images limit the resolution of a sign; empty if no view is as near."""
    side = min(shape[-2:], default=0)
    sharpest = SIGN_SIDE_SHARE * side
    if not 0 < sharpest < nearest:
        return ""
    return (
        f"The model's images are {side} pixels wide, and a sign fills about {SIGN_SIDE_SHARE:g} of that: "
        "from "
        f"{sharpest:g} pixels on, views have the same resolution and differ in perspective only."
    )
