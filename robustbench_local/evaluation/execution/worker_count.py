"""The number of processes that share a cell."""

from __future__ import annotations

from robustbench_local.evaluation.planning.plan import CellSpec

MAX_PASSES_WITHOUT_WORKERS = 200
"""Maximum number of passes of a cell that runs without worker processes."""


def count_workers(cell: CellSpec, workers: int) -> int:
    """Return the number of processes for a cell; starting them takes as long as some hundred passes."""
    return workers if sum(cell.work_passes) > MAX_PASSES_WITHOUT_WORKERS else 1
