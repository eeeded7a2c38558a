"""The expected cost of a plan: passes, CPU time and memory, from a pilot and from earlier runs.

The plan knows the most passes that an attack may take. What it takes depends on how many images fall early,
which only the model can tell: so each cell is measured on a few images, or on those of an earlier run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.execution.cost_range import (
    NO_COST,
    RANGE_QUANTILE,
    CostRange,
    add_ranges,
    compute_share_range,
    estimate_mean_share,
)
from robustbench_local.evaluation.execution.earlier_runs import MIN_EARLIER_IMAGES, EarlierCost
from robustbench_local.evaluation.execution.pilot_measurement import PilotMeasurement
from robustbench_local.evaluation.planning.plan import CellSpec

SPEED_UNCERTAINTY_SHARE = 0.3
"""Standard uncertainty of the seconds of a pass: the run's batches shrink and grow as images fall, and other
programs on the machine come and go."""


@dataclass(frozen=True, kw_only=True)
class ExpectedCellCost:
    """The expected cost of one cell."""

    passes: CostRange | None
    """Forward and backward passes over all images; None: the upper bound of the plan is all that is known."""
    cpu_seconds: CostRange | None
    """Seconds of one core, or of the accelerator; None if unknown."""
    source: str
    """Where the figures come from, in a few words."""
    workers: int = 1
    """Number of processes that share the cell."""


@dataclass(frozen=True, kw_only=True)
class ExpectedPlanCost:
    """The expected cost of a whole plan."""

    cells: Mapping[str, ExpectedCellCost]
    """The cost of each cell, by its key."""
    passes: CostRange
    """Passes of the cells whose cost is expected."""
    cpu_seconds: CostRange
    """Seconds of one core for them."""
    seconds: CostRange
    """The same, shared by the workers of each cell where they run at the same time on cores of their own."""
    unknown_cells: int = 0
    """Number of cells of which only the upper bound is known; they are in none of the sums."""
    peak_bytes: int = 0
    """Peak memory of the largest process, or of the accelerator; 0 if unknown."""
    pilot_seconds: float = 0.0
    """Seconds that the pilot took."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes that the pilot measured with."""

    def to_json(self) -> dict[str, Any] | None:
        """Return the sums as JSON values; None if the cost of no cell is expected."""
        if all(cost.passes is None for cost in self.cells.values()):
            return None
        return {
            "passes": self.passes.to_json(),
            "cpu_seconds": self.cpu_seconds.to_json(),
            "seconds": self.seconds.to_json(),
            "workers": max(cost.workers for cost in self.cells.values()),
            "peak_bytes": self.peak_bytes or None,
            "unknown_cells": self.unknown_cells,
            "pilot_seconds": round(self.pilot_seconds, 1),
        }


def estimate_cell_cost(
    cell: CellSpec,
    pilot: PilotMeasurement | None,
    earlier: EarlierCost | None,
    *,
    workers: int = 1,
    pass_seconds: float | None = None,
    start_seconds: float = 0.0,
) -> ExpectedCellCost:
    """Estimate the cost of one cell.

    Args:
        cell: The cell.
        pilot: What its pilot measured; None without one.
        earlier: What an earlier run spent on it; None if there is none.
        workers: Number of processes that share it.
        pass_seconds: Seconds of a bare pass of the model, used where there is no pilot; None if unknown.
        start_seconds: Seconds that each worker takes beside the images.

    Returns:
        The cost from the larger sample of the two; the upper bound alone if there is none.
    """
    images, most = cell.image_count, sum(cell.max_passes)
    pilot = pilot if pilot and pilot.images and pilot.passes else None
    seconds = pilot.seconds / pilot.passes if pilot else pass_seconds
    if earlier is not None and _is_preferred(earlier, pilot):
        passes = _estimate_passes(earlier.passes / earlier.images, earlier.images, images, most / images)
        source = f"earlier run {earlier.run}, {format_count(earlier.images, 'image')}"
    elif pilot is not None:
        passes = _estimate_pilot_passes(pilot, images)
        source = f"pilot of {format_count(pilot.images, 'image')}"
        if pilot.unfinished:
            source += f", {pilot.unfinished} cut short"
    else:
        return ExpectedCellCost(passes=None, cpu_seconds=None, source="upper bound only", workers=workers)
    uncertainty = RANGE_QUANTILE * SPEED_UNCERTAINTY_SHARE
    cpu = None if seconds is None else passes.scale_by(seconds).widen_by(uncertainty)
    cpu = None if cpu is None else cpu.shift_by(start_seconds * workers)
    return ExpectedCellCost(passes=passes, cpu_seconds=cpu, source=source, workers=workers)


def _is_preferred(earlier: EarlierCost, pilot: PilotMeasurement | None) -> bool:
    """Return whether an earlier run says more than the pilot."""
    if pilot is None:
        return True
    whole = pilot.images - pilot.unfinished
    is_longer = earlier.images >= max(whole, MIN_EARLIER_IMAGES)
    return is_longer or (bool(pilot.unfinished) and earlier.is_same_cell)


def _estimate_pilot_passes(pilot: PilotMeasurement, population: int) -> CostRange:
    """Estimate the passes of all images from a pilot; few of those cut short were followed, if any."""
    passes = _estimate_passes(pilot.expected_passes, pilot.images, population, pilot.full_passes)
    if not pilot.unfinished or not pilot.full_passes:
        return passes
    low, high = compute_share_range(min(pilot.survivor_passes / pilot.full_passes, 1.0), pilot.followed + 1)
    survivors = pilot.unfinished / pilot.images * population
    below = survivors * max(pilot.survivor_passes - low * pilot.full_passes, 0.0)
    above = survivors * max(high * pilot.full_passes - pilot.survivor_passes, 0.0)
    return CostRange(
        low=max(passes.value - math.hypot(passes.value - passes.low, below), 0.0),
        value=passes.value,
        high=passes.value + math.hypot(passes.high - passes.value, above),
    )


def _estimate_passes(mean: float, n: int, population: int, most: float) -> CostRange:
    """Estimate the passes of all images of a cell from the mean over a sample.

    Args:
        mean: Mean number of passes of an image of the sample.
        n: Size of the sample.
        population: Number of images of the cell.
        most: Maximum number of passes of an image.
    """
    if not most or not population:
        return NO_COST
    share = estimate_mean_share(min(mean / most, 1.0), min(n, population), population)
    return share.scale_by(most * population)


def sum_cell_costs(cells: Sequence[CellSpec], costs: Mapping[str, ExpectedCellCost]) -> ExpectedPlanCost:
    """Sum the costs of the cells of a plan; the cells of one model err together.

    Args:
        cells: The cells.
        costs: Their costs, by key.
    """
    known = [(str(cell.subject), costs[cell.record.key]) for cell in cells if cell.record.key in costs]
    seconds = [(name, cost.cpu_seconds, cost.workers) for name, cost in known if cost.cpu_seconds is not None]
    return ExpectedPlanCost(
        cells=costs,
        passes=add_ranges((name, cost.passes) for name, cost in known if cost.passes is not None),
        cpu_seconds=add_ranges((name, cpu) for name, cpu, _ in seconds),
        seconds=add_ranges((name, cpu.scale_by(1 / workers)) for name, cpu, workers in seconds),
        unknown_cells=sum(cost.passes is None for _, cost in known),
    )
