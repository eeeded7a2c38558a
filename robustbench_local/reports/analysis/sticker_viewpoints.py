"""Success over distance and angle: from where a sticker works best."""

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
"""Bins of distance, equal in ratio."""
ANGLE_EDGES_DEGREES = (0.0, 15.0, 30.0, 90.0)
"""Edges of the bins of the angle, in degrees."""
SIGN_SIDE_SHARE = 0.8
"""Side of the sign over the side of its frame, as the camera has it."""
ALPHA = 0.05
"""Probability that one of the bins' intervals misses, when the worst of them is named."""
MIN_VIEWS_PER_BIN = 10
"""Views that a bin needs in order to be called the worst."""


@dataclass(frozen=True, kw_only=True)
class WorstBin:
    """One bin, named."""

    position: str
    """Its distance and angle, in words."""
    estimate: Estimate
    """Success there; the interval holds for all of the bins at once."""
    bin_count: int
    """Bins that it is the worst of."""

    @property
    def interval_note(self) -> str:
        """What its interval is, in few words."""
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
    """One a bin of the angle."""
    worst_bin: WorstBin | None
    """Where the sticker works best, among bins of enough views; None if it works in none of them."""
    note: str = ""
    """What a reader of the columns has to know, in one sentence."""


def build_view_map(views: Sequence[SignViews], targets: Sequence[int], shape: Sequence[int] = ()) -> ViewMap:
    """Success in each bin, over the views in which the clean sign is classified correctly.

    Args:
        views: The test views of each sign.
        targets: Classes the attacker wants; empty: any wrong one.
        shape: Channels, height and width of the images; empty: not known.
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
    """The bin of the largest success. Any of them could have been it, so their intervals hold together."""
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
    """From which size on a sign is not seen more sharply; nothing if no view is that near."""
    side = min(shape[-2:], default=0)
    sharpest = SIGN_SIDE_SHARE * side
    if not 0 < sharpest < nearest:
        return ""
    return (
        f"The model's images are {side} pixels wide, and a sign fills about {SIGN_SIDE_SHARE:g} of that: "
        "from "
        f"{sharpest:g} pixels on, views have the same resolution and differ in perspective only."
    )
