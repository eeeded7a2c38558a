"""Geometry of a confusion matrix of many classes: one square for each pair that occurs, by its share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.class_results import ConfusionMatrix
from robustbench_local.reports.formatting.text import format_count, format_percent

SHADES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Upper ends of the shares of a true class's images that have one shade."""
_MARGIN = 3.0
"""Room for the indices at the left and above, in squares of a matrix of 30 classes."""
_MAX_TICKS = 12


@dataclass(frozen=True, kw_only=True)
class ConfusionMap:
    """A matrix in the coordinates of its drawing, in which each class is one unit wide."""

    size: int
    """Number of classes."""
    margin: float
    """Room for the indices at the left and above."""
    paths: tuple[tuple[int, str], ...]
    """(shade, outline of all squares of that shade); correct predictions have shades of their own."""
    correct_paths: tuple[tuple[int, str], ...]
    """The same of the diagonal."""
    ticks: tuple[tuple[float, str], ...]
    """(position, index of the class)."""
    description: str
    """Text alternative."""


def build_confusion_map(
    matrix: ConfusionMatrix, classes: Sequence[tuple[int | None, str]], what: str
) -> ConfusionMap:
    """Draw the squares of a matrix; rows are true classes, columns predicted ones, in the same order.

    Args:
        matrix: The counts.
        classes: Index and name of the classes of rows and columns.
        what: What the predictions are of, in the text alternative.
    """
    order = {index: place for place, (index, _) in enumerate(classes)}
    sizes = matrix.class_sizes
    squares: dict[tuple[bool, int], list[str]] = {}
    for (label, final), count in matrix.counts.items():
        shade = find_shade(count / sizes[label])
        square = f"M{order[final]} {order[label]}h1v1h-1z"
        squares.setdefault((label == final, shade), []).append(square)
    correct = sum(count for (label, final), count in matrix.counts.items() if label == final)
    margin = _MARGIN * len(classes) / 30
    return ConfusionMap(
        size=len(classes),
        margin=round(margin, 2),
        paths=_join_squares(squares, correct=False),
        correct_paths=_join_squares(squares, correct=True),
        ticks=list_ticks(classes),
        description=(
            f"Confusion matrix of {format_count(len(classes), 'class')}, {what}: {correct:,} of {matrix.n:,} "
            f"images ({format_percent(correct / matrix.n)}) on the diagonal; the tables have the numbers."
        ),
    )


def _join_squares(
    squares: Mapping[tuple[bool, int], Sequence[str]], *, correct: bool
) -> tuple[tuple[int, str], ...]:
    return tuple(
        (shade, "".join(squares[is_correct, shade]))
        for is_correct, shade in sorted(squares)
        if is_correct == correct
    )


def find_shade(share: float) -> int:
    """Return the index of the shade of a share above 0, in [0, 1]."""
    return next(index for index, upper in enumerate(SHADES) if share <= upper + 1e-9)


def list_ticks(classes: Sequence[tuple[int | None, str]]) -> tuple[tuple[float, str], ...]:
    """List positions and indices of at most twelve classes, evenly spaced."""
    stride = max(1, math.ceil(len(classes) / _MAX_TICKS))
    step = next(size for size in (1, 2, 5, 10, 20) if size >= stride)
    return tuple(
        (place + 0.5, f"{index}")
        for place, (index, _) in enumerate(classes)
        if index is not None and place % step == 0
    )
