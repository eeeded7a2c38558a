"""Real workers: the CPU time that a run takes with one and with two of them, and its wall time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from robustbench_local.evaluation.execution.spent_resources import read_cpu_seconds
from robustbench_local.evaluation.options import Options
from robustbench_local.run import run_grid

GRID = {
    "name": "scaling",
    "data": {"source": "signs", "limit": 128},
    "models": [{"id": "at", "source": "zoo:signs-pgd-at"}],
    "attacks": [{"card": "pgd50-linf-8", "restarts": 1}],
}


def measure_workers() -> Iterator[str]:
    """Run the same grid with one and with two workers, and yield a line about each and one about both."""
    spent = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            options = Options(device="cpu", workers=workers, batch_size=32)
            cpu, wall = read_cpu_seconds(), time.perf_counter()
            run_grid(GRID, Path(folder) / "out", options=options)
            cpu, wall = read_cpu_seconds() - cpu, time.perf_counter() - wall
        spent.append((cpu, wall))
        yield f"PGD-50 on 128 images, workers {workers}: {cpu:.1f} s of CPU time, {wall:.1f} s of wall time"
    (cpu, wall), (both_cpu, both_wall) = spent
    yield (
        f"two beside one: {both_cpu / cpu:.2f} times the CPU time, {wall / both_wall:.2f} times as fast; the "
        "second figure holds only where nothing else runs"
    )
