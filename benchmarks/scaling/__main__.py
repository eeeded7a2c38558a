"""``python -m benchmarks.scaling``: simulated efficiency of many workers, and two real ones."""

from __future__ import annotations

import os
from typing import Annotated

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer

from benchmarks.scaling.image_costs import draw_image_passes
from benchmarks.scaling.real_workers import measure_workers
from benchmarks.scaling.simulated_pool import simulate_run

WORKER_COUNTS = (1, 2, 4, 8, 32, 128)
ROBUST_SHARES = (0.05, 0.5)


def main(
    images: Annotated[int, typer.Option(help="Images of the simulated cell.", min=1)] = 5000,
    batch_size: Annotated[int, typer.Option(help="Images per pass of a worker.", min=1)] = 64,
    real: Annotated[bool, typer.Option(help="Measure one and two real workers, too.")] = True,
) -> None:
    """Print the efficiency of the pool: the time of one worker over that of all workers together."""
    print(f"AutoAttack on {images:,} images, {batch_size} a pass; efficiency, simulated with the real queue")
    print("| robust | " + " | ".join(f"{count} workers" for count in WORKER_COUNTS) + " |")
    print("|---" * (1 + len(WORKER_COUNTS)) + "|")
    for share in ROBUST_SHARES:
        row = list_efficiencies(images, share, batch_size)
        print(f"| {share:.0%} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    if real:
        for line in measure_workers():
            print(line)


def list_efficiencies(images: int, robust: float, batch_size: int) -> list[float]:
    """List the efficiency for each number of workers.

    Args:
        images: Number of images.
        robust: Share of them that survives.
        batch_size: Images per pass of a worker.
    """
    passes = draw_image_passes(images, robust)
    alone = simulate_run(passes, 1, batch_size)
    return [alone / (count * simulate_run(passes, count, batch_size)) for count in WORKER_COUNTS]


if __name__ == "__main__":
    typer.run(main)
