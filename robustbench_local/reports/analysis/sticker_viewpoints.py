"""Success over distance and angle: from where a sticker works best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from robustbench_local.reports.analysis.heatmap import Square
from robustbench_local.reports.analysis.sticker_views import Looks
from robustbench_local.reports.formatting.text import counted, full
from robustbench_local.statistics import Estimate, clopper_pearson

DISTANCES = 4
"""Bins of distance, equal in ratio."""
ANGLES = (0.0, 15.0, 30.0, 90.0)
"""Edges of the bins of the angle, in degrees."""
SIGN_SHARE = 0.8
"""Side of the sign over the side of its frame, as the camera has it."""
ALPHA = 0.05
"""Probability that one of the bins' intervals misses, when the worst of them is named."""
ENOUGH = 10
"""Views that a bin needs in order to be called the worst."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bin, named."""

    where: str
    """Its distance and angle, in words."""
    estimate: Estimate
    """Success there; the interval holds for all of the bins at once."""
    among: int
    """Bins that it is the worst of."""

    @property
    def basis(self) -> str:
        """What its interval is, in few words."""
        return f"interval corrected for {counted(self.among, 'bin')}"

    def __str__(self) -> str:
        return f"{full(self.estimate)} {self.where}, {self.basis}"


@dataclass(frozen=True, kw_only=True)
class ViewMap:
    """Success over distance (columns, from far to near) and angle (rows)."""

    distances: tuple[str, ...]
    """The columns, in words."""
    angles: tuple[str, ...]
    """The rows, in words."""
    rows: tuple[tuple[Square, ...], ...]
    """One a bin of the angle."""
    worst: Bin | None
    """Where the sticker works best, among bins of enough views; None if it works in none of them."""
    note: str = ""
    """What a reader of the columns has to know, in one sentence."""


def make_map(views: Sequence[Looks], targets: Sequence[int], shape: Sequence[int] = ()) -> ViewMap:
    """Success in each bin, over the views in which the clean sign is read rightly.

    Args:
        views: The test views of each sign.
        targets: Classes the attacker wants; empty: any wrong one.
        shape: Channels, height and width of the images; empty: not known.
    """
    if not views:
        return ViewMap(distances=(), angles=(), rows=(), worst=None)
    distance = np.concatenate([looks.distance[looks.right] for looks in views])
    angle = np.concatenate([looks.obliqueness[looks.right] for looks in views])
    hits = np.concatenate([looks.hits("sticker", targets) for looks in views])
    every = np.concatenate([looks.distance for looks in views])
    edges = np.geomspace(np.floor(every.min()), np.ceil(every.max()), DISTANCES + 1)
    column = np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, DISTANCES - 1)
    row = np.searchsorted(np.array(ANGLES), angle, side="right") - 1
    squares = tuple(
        tuple(_square(hits[(row == y) & (column == x)]) for x in range(DISTANCES))
        for y in range(len(ANGLES) - 1)
    )
    columns = tuple(_span(low, high) for low, high in pairwise(edges))
    rows = tuple(_span(low, high) for low, high in pairwise(ANGLES))
    return ViewMap(
        distances=columns,
        angles=rows,
        rows=squares,
        worst=_worst(columns, rows, squares),
        note=_note(shape, edges[-1]),
    )


def _square(hits: np.ndarray) -> Square:
    return Square(estimate=clopper_pearson(int(hits.sum()), len(hits)), word="no view")


def _span(low: float, high: float) -> str:
    return f"{low:.0f} and more" if high >= ANGLES[-1] else f"{low:.0f} to {high:.0f}"


def _worst(columns: Sequence[str], rows: Sequence[str], squares: Sequence[Sequence[Square]]) -> Bin | None:
    """The bin of the largest success. Any of them could have been it, so their intervals hold together."""
    named = [
        (square.estimate, f"at {column} px and {row} degrees")
        for row, line in zip(rows, squares, strict=True)
        for column, square in zip(columns, line, strict=True)
        if square.estimate.n >= ENOUGH
    ]
    found, where = max(named, key=lambda one: one[0].value, default=(None, ""))
    if found is None or not found.count:
        return None
    corrected = clopper_pearson(found.count, found.n, level=1 - ALPHA / len(named))
    return Bin(where=where, estimate=corrected, among=len(named))


def _note(shape: Sequence[int], nearest: float) -> str:
    """From which size on a sign is not seen more sharply; nothing if no view is that near."""
    side = min(shape[-2:], default=0)
    sharpest = SIGN_SHARE * side
    if not 0 < sharpest < nearest:
        return ""
    return (
        f"The model's images are {side} pixels wide, and a sign fills about {SIGN_SHARE:g} of that: from "
        f"{sharpest:g} pixels on, views have the same resolution and differ in perspective only."
    )
