"""The pilot of a dry run: every cell on a few images, within a number of seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from robustbench_local.evaluation.execution.batch_size import ModelSpeed
from robustbench_local.evaluation.execution.earlier_runs import find_earlier_costs
from robustbench_local.evaluation.execution.kept_batch_sizes import find_most_images
from robustbench_local.evaluation.execution.model_speed import try_tune_batch_size
from robustbench_local.evaluation.execution.pilot_measurement import (
    PilotMeasurement,
    choose_images,
    measure_pilot,
)
from robustbench_local.evaluation.execution.plan_cost import (
    ExpectedCellCost,
    ExpectedPlanCost,
    estimate_cell_cost,
    sum_cell_costs,
)
from robustbench_local.evaluation.execution.proof_reuse import is_proof_for, sort_certificates_first
from robustbench_local.evaluation.execution.spent_resources import read_cpu_seconds, read_peak_bytes
from robustbench_local.evaluation.execution.worker_count import count_workers
from robustbench_local.evaluation.harness.worker_pool import count_usable_workers
from robustbench_local.evaluation.planning.plan import CellSpec, Plan

PILOT_SECONDS = 30.0
"""Default limit of the seconds of a pilot."""
PILOT_SHARE = 0.05
"""Share of the most seconds of the run that a pilot takes unless that is less than a few seconds."""
MIN_PILOT_SECONDS = 4.0
"""Seconds that the pilot of a small run may take."""


def choose_pilot_seconds(limit: float, max_seconds: Mapping[str, float]) -> float:
    """Choose the seconds of a pilot: a small share of those of the run, within the limit; 0 for none.

    Args:
        limit: The limit in seconds; 0 for no pilot.
        max_seconds: Maximum seconds by key of the cell, where known.
    """
    return min(limit, max(PILOT_SHARE * sum(max_seconds.values()), MIN_PILOT_SECONDS))


def estimate_plan_cost(
    plan: Plan, directory: Path, speeds: Mapping[str, ModelSpeed], *, seconds: float
) -> ExpectedPlanCost:
    """Estimate what a plan costs; nothing is written.

    Args:
        plan: The plan.
        directory: Its run directory; what earlier runs in it and beside it spent is read.
        speeds: Speed of the model that each cell queries, by key of the cell, where known.
        seconds: Seconds of the pilot; 0 for none.
    """
    started = time.monotonic()
    cells = [cell for cell in plan.cells if not cell.problem and not cell.skip_reason and cell.image_count]
    earlier = find_earlier_costs(cells, directory)
    pilot = PlanPilot(plan, speeds, seconds)
    costs: dict[str, ExpectedCellCost] = {}
    cells.sort(key=lambda cell: sum(cell.work_passes))  # what small cells leave of the time large ones get
    for number, cell in enumerate(sort_certificates_first(cells) if plan.skip_verified else cells):
        key, speed = cell.record.key, speeds.get(cell.record.key)
        most = sum(cell.max_passes)
        costs[key] = estimate_cell_cost(
            cell,
            pilot.measure_cell(cell, len(cells) - number) if seconds > 0 else None,
            earlier.get(key),
            workers=count_usable_workers(cell.make_job(), count_workers(cell, plan.workers)),
            pass_seconds=speed.estimate_seconds(cell.work_passes) / most if speed and most else None,
            start_seconds=pilot.start_seconds.get(key, 0.0),
        )
    total = sum_cell_costs(cells, costs)
    return replace(
        total,
        cpu_seconds=total.cpu_seconds.shift_by(pilot.tuning_seconds),
        seconds=total.seconds.shift_by(pilot.tuning_seconds),
        peak_bytes=pilot.peak_bytes,
        pilot_seconds=time.monotonic() - started if seconds > 0 else 0.0,
        batch_sizes=tuple(sorted(set(pilot.batch_sizes.values()))),
    )


class PlanPilot:
    """Measures the cells of a plan one after the other; what a cell leaves of its time the next ones get.

    Args:
        plan: The plan.
        speeds: Speed of the model that each cell queries, by key of the cell.
        seconds: Seconds of all pilots together.

    Attributes:
        peak_bytes: Largest peak memory so far.
        batch_sizes: Measured batch sizes by network.
        tuning_seconds: Seconds that measuring them took; the run measures them again.
        start_seconds: Seconds of a pilot beside its images, by key of the cell: starting a process, adapting
            the attack. The run needs them too.
    """

    def __init__(self, plan: Plan, speeds: Mapping[str, ModelSpeed], seconds: float) -> None:
        self._plan, self._speeds, self._seconds_left = plan, speeds, seconds
        self.peak_bytes = 0
        self.batch_sizes: dict[str, int] = {}
        self.tuning_seconds = 0.0
        self.start_seconds: dict[str, float] = {}
        self._certified: dict[str, frozenset[str]] = {}

    def measure_cell(self, cell: CellSpec, cells_left: int) -> PilotMeasurement | None:
        """Measure a cell within its share of the seconds that are left.

        Args:
            cell: The cell.
            cells_left: Number of cells that are not measured, with this one.

        Returns:
            The measurement; None if the cell is too slow for a pilot, or fails in it.
        """
        speed, most = self._speeds.get(cell.record.key), sum(cell.work_passes)
        if speed is None or not most or self._seconds_left <= 0:
            return None
        seconds = self._seconds_left / cells_left
        affordable = int(seconds * most / max(speed.estimate_seconds(cell.work_passes), 1e-9))
        job = cell.make_job()
        if self._plan.skip_verified and not cell.is_certificate and job.is_divisible:
            job = job.skip_proven_images(self._find_proven_images(cell))
        positions = choose_images(job, affordable, cell.own_positions)
        if not positions:
            return None
        batch_size, before = self._find_batch_size(cell), read_cpu_seconds()
        try:
            measured = measure_pilot(
                job,
                positions,
                batch_size=batch_size,
                max_passes=affordable,
                seconds=seconds,
                timeout=self._plan.timeout,
            )
        except Exception:  # noqa: BLE001 - the run itself finds out which image it is about
            self._seconds_left -= seconds
            return None
        self._seconds_left -= measured.total_seconds
        if job.queried_model.device.type == "cpu":
            beside_images = read_cpu_seconds() - before - measured.image_seconds
            self.start_seconds[cell.record.key] = max(beside_images, 0.0)
        self.peak_bytes = max(self.peak_bytes, measured.peak_bytes)
        if job.queried_model.device.type == "cpu":  # the run also has a process that measures batch sizes
            self.peak_bytes = max(self.peak_bytes, read_peak_bytes())
        self._certified[cell.record.key] = measured.certified
        return measured

    def _find_proven_images(self, cell: CellSpec) -> frozenset[str]:
        """Return the images of the pilot that a certificate proved, so that the attack skips them."""
        proofs = [other for other in self._plan.cells if other.is_certificate and is_proof_for(other, cell)]
        proven = [self._certified.get(proof.record.key, frozenset()) for proof in proofs]
        return frozenset(image for images in proven for image in images)

    def _find_batch_size(self, cell: CellSpec) -> int:
        """Return the batch size of a worker, measured once for each network."""
        subject, workers = cell.queried_subject, count_workers(cell, self._plan.workers)
        network = subject.network or str(subject)
        if network not in self.batch_sizes:
            before = read_cpu_seconds()
            self.batch_sizes[network] = self._plan.batch_size or (
                try_tune_batch_size(
                    subject,
                    self._plan.timeout,
                    workers=workers,
                    most_images=find_most_images(self._plan, subject),
                )[0].size
            )
            self.tuning_seconds += read_cpu_seconds() - before
        return self.batch_sizes[network]
