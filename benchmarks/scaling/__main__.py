"""``python -m benchmarks.scaling``: simulated efficiency of many workers, and two real ones."""

from __future__ import annotations

import os
import statistics
from typing import Annotated

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer

from benchmarks.scaling.image_costs import draw_image_passes
from benchmarks.scaling.real_workers import measure_workers
from benchmarks.scaling.simulated_cluster import simulate_cluster_run
from benchmarks.scaling.simulated_pool import simulate_run
from robustbench_local.counted_nouns import format_count

WORKER_COUNTS = (1, 2, 4, 8, 32, 128)
ROBUST_SHARES = (0.05, 0.5)
CELL_COUNTS = (1, 2, 4, 8)
"""Numbers of cells of a simulated grid on a cluster."""
DRAWS = 4
"""Number of draws of what images cost."""


def main(
    images: Annotated[int, typer.Option(help="Images of each simulated cell.", min=1)] = 5000,
    batch_size: Annotated[int, typer.Option(help="Images per pass of a worker.", min=1)] = 64,
    real: Annotated[bool, typer.Option(help="Measure one and two real workers, too.")] = True,
) -> None:
    """Print the efficiency: the time of one worker over that of all workers together."""
    print(f"AutoAttack on {images:,} images, {batch_size} a pass; efficiency, simulated with the real queues")
    print("| | robust | " + " | ".join(f"{count} workers" for count in WORKER_COUNTS) + " |")
    print("|---" * (2 + len(WORKER_COUNTS)) + "|")
    for share in ROBUST_SHARES:
        for name, row in list_efficiencies(images, share, batch_size).items():
            print(f"| {name} | {share:.0%} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    if real:
        for line in measure_workers():
            print(line)


def list_efficiencies(images: int, robust: float, batch_size: int) -> dict[str, list[float]]:
    """List the efficiency for each number of workers: of processes, and of a cluster's tasks on some cells.

    Args:
        images: Number of images of each cell.
        robust: Share of them that survives.
        batch_size: Images per pass of a worker.

    Returns:
        Means over `DRAWS`, beside the time of one process.
    """
    draws = [draw_image_passes(images, robust, seed) for seed in range(max(DRAWS, *CELL_COUNTS))]
    alone = [simulate_run(passes, 1, batch_size) for passes in draws]
    rows = {
        "processes, 1 cell": [
            statistics.mean(
                alone[draw] / (count * simulate_run(draws[draw], count, batch_size)) for draw in range(DRAWS)
            )
            for count in WORKER_COUNTS
        ]
    }
    for cells in CELL_COUNTS:
        grids = [range(start, start + cells) for start in range(0, DRAWS, cells)]
        rows[f"tasks, {format_count(cells, 'cell')}"] = [
            statistics.mean(
                sum(alone[draw] for draw in grid)
                / (count * simulate_cluster_run([draws[draw] for draw in grid], count, batch_size))
                for grid in grids
            )
            for count in WORKER_COUNTS
        ]
    return rows


if __name__ == "__main__":
    typer.run(main)
