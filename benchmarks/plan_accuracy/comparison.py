"""A plan beside its run: ratios, and whether the stated ranges hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.evaluation.execution.plan_cost import ExpectedPlanCost
from robustbench_local.statistics import compute_wilson

MAX_FACTOR = 1.5
"""A prediction within this factor is a good one."""


@dataclass(frozen=True, kw_only=True)
class PredictedFigure:
    """One predicted figure and the actual one."""

    expected: CostRange
    actual: float

    @property
    def ratio(self) -> float:
        """Predicted over actual."""
        return self.expected.value / max(self.actual, 1e-9)

    @property
    def is_covered(self) -> bool:
        """Whether the actual figure lies in the range, to a thousandth."""
        return 0.999 * self.expected.low <= self.actual <= 1.001 * self.expected.high

    def __str__(self) -> str:
        low, high = (end / max(self.actual, 1e-9) for end in (self.expected.low, self.expected.high))
        return f"{self.ratio:.2f} ({low:.2f}-{high:.2f}) of {self.actual:,.0f}"


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What a run took."""

    passes: Mapping[str, int]
    """Passes of each cell, by its key."""
    titles: Mapping[str, str]
    """Model and attack of each cell, by its key."""
    cpu_seconds: float
    """Seconds of CPU time of all its processes."""
    peak_bytes: int
    """Peak memory of its largest process."""


@dataclass(frozen=True, kw_only=True)
class GridComparison:
    """What was predicted and what happened, on one grid."""

    name: str
    passes: PredictedFigure
    cpu_seconds: PredictedFigure | None
    """None if the cost of some cells was unknown: the run's time has theirs too."""
    memory_ratio: float | None
    """Predicted over actual peak memory; None if no memory was predicted."""
    cells: Mapping[str, PredictedFigure]
    """Passes of each cell whose cost was expected."""
    unknown_cells: int
    """Number of cells of which only the upper bound was known."""
    pilot_seconds: float
    """Seconds that the pilot took."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def compare_costs(name: str, expected: ExpectedPlanCost, actual: RunCost) -> GridComparison:
    """Compare a plan with its run.

    Args:
        name: Name of the grid.
        expected: The expected cost.
        actual: The actual cost.
    """
    cells = {
        actual.titles[key]: PredictedFigure(expected=cost.passes, actual=actual.passes[key])
        for key, cost in expected.cells.items()
        if cost.passes is not None and actual.passes[key]
    }
    known = sum(cell.actual for cell in cells.values())
    return GridComparison(
        name=name,
        passes=PredictedFigure(expected=expected.passes, actual=known),
        cpu_seconds=None
        if expected.unknown_cells
        else PredictedFigure(expected=expected.cpu_seconds, actual=actual.cpu_seconds),
        memory_ratio=expected.peak_bytes / actual.peak_bytes if expected.peak_bytes else None,
        cells=cells,
        unknown_cells=expected.unknown_cells,
        pilot_seconds=expected.pilot_seconds,
    )


def render_table(compared: Sequence[GridComparison]) -> str:
    """Render the table of all grids, and the share of ranges that hold.

    Args:
        compared: The grids.
    """
    lines = [
        "| grid | passes, predicted / actual | CPU time, s | memory | cells in their range |",
        "|---|---|---|---|---|",
    ]
    for row in compared:
        memory = "" if row.memory_ratio is None else f"{row.memory_ratio:.2f}"
        held = sum(cell.is_covered for cell in row.cells.values())
        lines.append(
            f"| {row.name} | {row.passes} | {row.cpu_seconds or ''} | {memory} | {held} of {len(row.cells)} |"
        )
    cells = [figure for row in compared for figure in row.cells.values()]
    for noun, figures in (
        ("passes of a cell", cells),
        ("passes of a grid", [row.passes for row in compared]),
        ("CPU time of a grid", [row.cpu_seconds for row in compared if row.cpu_seconds is not None]),
    ):
        close = sum(1 / MAX_FACTOR <= figure.ratio <= MAX_FACTOR for figure in figures)
        held = sum(figure.is_covered for figure in figures)
        interval = compute_wilson(held, len(figures))
        lines.append(
            f"{noun}: {close} of {len(figures)} within a factor of {MAX_FACTOR}; "
            f"{held} of {len(figures)} ranges hold ({interval.low:.0%}-{interval.high:.0%})"
        )
    return "\n".join(lines)
