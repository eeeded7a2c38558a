"""Success over distance and angle: from where a sticker works best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from robustbench_local.reports.heatmap import Square
from robustbench_local.reports.sightings import Looks
from robustbench_local.statistics import clopper_pearson

DISTANCES = 4
"""Bins of distance, equal in ratio."""
ANGLES = (0.0, 15.0, 30.0, 90.0)
"""Edges of the bins of the angle, in degrees."""
ENOUGH = 10
"""Views that a bin needs in order to be called the worst."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bin, named."""

    where: str
    """Its distance and angle, in words."""
    square: Square
    """Success there."""


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


def make_map(views: Sequence[Looks], targets: Sequence[int]) -> ViewMap:
    """Success in each bin, over the views in which the clean sign is read rightly.

    Args:
        views: The test views of each sign.
        targets: Classes the attacker wants; empty: any wrong one.
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
    return ViewMap(distances=columns, angles=rows, rows=squares, worst=_worst(columns, rows, squares))


def _square(hits: np.ndarray) -> Square:
    return Square(estimate=clopper_pearson(int(hits.sum()), len(hits)), word="no view")


def _span(low: float, high: float) -> str:
    return f"{low:.0f} and more" if high >= ANGLES[-1] else f"{low:.0f} to {high:.0f}"


def _worst(columns: Sequence[str], rows: Sequence[str], squares: Sequence[Sequence[Square]]) -> Bin | None:
    named = [
        Bin(where=f"at {column} px and {row} degrees", square=square)
        for row, line in zip(rows, squares, strict=True)
        for column, square in zip(columns, line, strict=True)
        if square.estimate.n >= ENOUGH and square.estimate.count
    ]
    return max(named, key=lambda one: one.square.estimate.value, default=None)
