"""The state of a run as its progress displays show it: every cell, the time spent, the time expected."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from robustbench_local.classifier import Classifier
from robustbench_local.cli.time_estimate import CellWork, estimate_passes_left, estimate_seconds_left
from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.evaluation.execution.spent_resources import read_cpu_seconds, read_peak_bytes
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.store.records import OutcomeCounts, count_outcomes

Clock = Callable[[], float]
WAITING, BEGUN, RUNNING = "waiting", "begun", "running"
"""Statuses of cells that have not ended: nothing is done; some images are; it is at work."""
_NO_COUNTS = count_outcomes(())


@dataclass(kw_only=True)
class CellProgress:
    """One cell of the run."""

    number: int
    """Its number in the plan, from 1."""
    cell: CellSpec
    """Its specification."""
    images: int
    """Number of images to run; 0 if it is skipped or its model cannot be used."""
    max_passes: int
    """Maximum number of passes over all images."""
    max_seconds: float | None = None
    """Seconds of that many passes; None if unknown."""
    status: str = WAITING
    """``waiting``, ``begun``, ``running``, or the status that it ended with."""
    counts: OutcomeCounts = _NO_COUNTS
    """Counts over the finished images."""
    known: OutcomeCounts = _NO_COUNTS
    """Counts over those that an earlier call had finished."""
    wall_seconds: float = 0.0
    """Seconds of this call that were spent on it."""
    classifier: Classifier | None = field(default=None, repr=False)
    """The classifier that is asked; None before the cell starts."""

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, with whatever status."""
        return self.status not in {WAITING, BEGUN, RUNNING}

    @property
    def is_run_here(self) -> bool:
        """Whether this call has worked on it."""
        return self.classifier is not None

    @property
    def finished_images(self) -> int:
        """Images that are done, or will not be done since the cell has ended."""
        return self.images if self.has_ended else min(self.counts.n, self.images)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds spent on it, with those of earlier calls."""
        return self.known.seconds + self.wall_seconds

    def count_passes(self) -> int:
        """Count the passes so far, with those of the batch at work; it grows as long as the work goes on."""
        return _count_passes(self.counts) + self.count_batch_passes()

    def count_batch_passes(self) -> int:
        """Count the passes of the batch at work."""
        if self.classifier is None or self.status != RUNNING:
            return 0
        return self.classifier.count_current_passes()

    def describe_work(self, batch_seconds: float = 0.0) -> CellWork:
        """Return what the estimate of time needs.

        Args:
            batch_seconds: Seconds of the batch at work; 0 if there is none.
        """
        record = self.cell.record
        return CellWork(
            model=f"{record.model}\0{record.defense}",
            attack=record.attack,
            images=self.images,
            max_passes=self.max_passes,
            max_seconds=self.max_seconds,
            done=self.counts.n,
            passes=self.counts.forward_passes + self.counts.backward_passes,
            seconds=self.counts.seconds,
            batch_passes=self.count_batch_passes(),
            batch_seconds=batch_seconds,
            has_ended=self.has_ended,
        )


def _count_passes(counts: OutcomeCounts) -> int:
    return counts.forward_passes + counts.backward_passes


class RunProgress:
    """The state of a run; events of its cells may come in any order.

    Args:
        plan: The plan.
        max_seconds: Maximum seconds by key of the cell, where known.
        clock: Returns seconds that only grow.
    """

    def __init__(self, plan: Plan, max_seconds: Mapping[str, float], clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.cells = [
            CellProgress(
                number=number,
                cell=cell,
                images=0 if cell.skip_reason or cell.problem else cell.image_count,
                max_passes=sum(cell.max_passes),
                max_seconds=max_seconds.get(cell.record.key),
            )
            for number, cell in enumerate(plan.cells, start=1)
        ]
        self._by_cell = {id(row.cell): row for row in self.cells}
        self.running: list[CellProgress] = []
        self.in_groups = bool(plan.data.group_by_image)
        self.may_stop_early = plan.stop is not None
        self.pilot_cells: frozenset[int] = frozenset()
        self.is_pilot = False
        self.expected_total: CostRange | None = None
        self.expected_passes: CostRange | None = None
        self.expected_peak_bytes = 0
        self.expected_after_images = 0
        self._started_cpu_seconds = self._last_cpu_seconds = read_cpu_seconds()
        self._started = self._last_event = clock()
        self._starts = 0

    def get_row(self, cell: CellSpec) -> CellProgress:
        """Return the row of a cell of the plan."""
        return self._by_cell[id(cell)]

    def record_known(self, cell: CellSpec, status: str, counts: OutcomeCounts) -> None:
        """Record what an earlier call has done."""
        row = self.get_row(cell)
        row.counts = row.known = counts
        row.status = status if status in {"done", "partial", "skipped"} else BEGUN if counts.n else WAITING

    def start_pilot(self, cells: Sequence[CellSpec]) -> None:
        """Record that the first images of these cells are run now."""
        self.pilot_cells = frozenset(self.get_row(cell).number for cell in cells)
        self.is_pilot = True

    def end_pilot(self) -> None:
        """Record that they are done: the first estimate of the whole time rests on them."""
        self.is_pilot = False
        for row in list(self.running):
            self.pause_cell(row.cell)
        self._keep_estimate()

    def start_cell(self, cell: CellSpec, counts: OutcomeCounts) -> CellProgress:
        """Record that work on a cell begins or goes on."""
        row = self._spend_time(cell)
        if row.classifier is None:
            row.classifier = cell.queried_subject.classifier
        self._set_current(row)
        row.counts = counts
        if not self._starts:  # what precedes the cells is not theirs
            self._started_cpu_seconds = self._last_cpu_seconds = read_cpu_seconds()
        self._starts += 1
        return row

    def pause_cell(self, cell: CellSpec) -> None:
        """Record that work on a cell stops for now."""
        row = self._spend_time(cell)
        if row in self.running:
            self._end_work(row)
            row.status = BEGUN if row.counts.n else WAITING

    def end_batch(self, cell: CellSpec, counts: OutcomeCounts) -> CellProgress:
        """Record the counts of a cell after a batch."""
        row = self._spend_time(cell)
        self._set_current(row)
        row.counts = counts
        return row

    def end_cell(self, cell: CellSpec, status: str, counts: OutcomeCounts) -> CellProgress:
        """Record the end of a cell."""
        row = self._spend_time(cell)
        row.status, row.counts = status, counts
        self._end_work(row)
        if not self.is_pilot:
            self._keep_estimate()
        return row

    @property
    def current(self) -> CellProgress | None:
        """The cell at work whose event was the last; None if none is at work."""
        return self.running[-1] if self.running else None

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the plan was ready."""
        return self._clock() - self._started

    @property
    def ended_seconds(self) -> float | None:
        """Seconds from the plan to the last event of a cell; None if no cell was worked on."""
        return self._last_event - self._started if self._starts else None

    @property
    def cpu_seconds(self) -> float:
        """Seconds of CPU time from the first to the last event of a cell, over all ended processes."""
        return self._last_cpu_seconds - self._started_cpu_seconds

    @property
    def passes(self) -> int:
        """Passes of the images that this call finished."""
        return sum(_count_passes(row.counts) - _count_passes(row.known) for row in self.cells)

    def get_batch_seconds(self, row: CellProgress) -> float:
        """Return the seconds of a cell's batch at work, by its share of the time since the last event."""
        running = self.running
        return (self._clock() - self._last_event) / len(running) if row in running else 0.0

    @property
    def image_count(self) -> int:
        """Number of images over all cells."""
        return sum(row.images for row in self.cells)

    @property
    def finished_images(self) -> int:
        """Number of images over all cells that are done."""
        return sum(row.finished_images for row in self.cells)

    @property
    def share_done(self) -> float:
        """Share of all images over all cells that is done, in [0, 1]."""
        return self.finished_images / self.image_count if self.image_count else 1.0

    @property
    def measured_images(self) -> int:
        """Number of images that the estimate of time rests on."""
        return sum(row.counts.n for row in self.cells)

    @property
    def max_seconds_left(self) -> float | None:
        """Upper bound of the time left; None if it is unknown for a cell that has images left."""
        total = 0.0
        for row in self.cells:
            left = row.images - row.finished_images
            if left and row.max_seconds is None:
                return None
            total += (row.max_seconds or 0.0) * left / row.images if left else 0.0
        return total

    def estimate_seconds_left(self) -> CostRange | None:
        """Estimate the seconds that are left now; None if nothing is measured yet."""
        rest = estimate_seconds_left([row.describe_work(self.get_batch_seconds(row)) for row in self.cells])
        return None if rest is None else rest.shift_by(self._estimate_start_seconds())

    def count_statuses(self) -> Counter[str]:
        """Count the cells by status."""
        return Counter(row.status for row in self.cells)

    def _set_current(self, row: CellProgress) -> None:
        self.running = [*(other for other in self.running if other is not row), row]
        row.status = RUNNING

    def _end_work(self, row: CellProgress) -> None:
        # a new list, because another thread may be reading this one
        self.running = [other for other in self.running if other is not row]

    def _spend_time(self, cell: CellSpec) -> CellProgress:
        """Divide the time since the last event among the cells at work, and return the row of a cell."""
        now = self._clock()
        for row in self.running:
            row.wall_seconds += (now - self._last_event) / len(self.running)
        self._last_event = now
        self._last_cpu_seconds = read_cpu_seconds()
        return self.get_row(cell)

    def _estimate_start_seconds(self) -> float:
        """Estimate the seconds that starting the waiting cells takes, by what it took so far."""
        worked = sum(row.counts.seconds - row.known.seconds for row in self.cells)
        spent = sum(row.wall_seconds for row in self.cells)
        waiting = sum(row.status in {WAITING, BEGUN} and row.images > 0 for row in self.cells)
        return max(spent - worked, 0.0) / self._starts * waiting if self._starts else 0.0

    def _keep_estimate(self) -> None:
        """Keep the first estimate of the total time, for the comparison at the end."""
        rest = self.estimate_seconds_left()
        if self.expected_total is None and rest is not None and self.finished_images < self.image_count:
            self.expected_total = rest.shift_by(self.elapsed_seconds)
            self.expected_after_images = self.measured_images
            self.expected_peak_bytes = read_peak_bytes()
            left = estimate_passes_left([row.describe_work() for row in self.cells])
            self.expected_passes = None if left is None else left.shift_by(self.passes)
