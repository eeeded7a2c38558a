"""The progress display of a program: one JSON object a line on standard output, see `json_events`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from robustbench_local.cli.heartbeat import Heartbeat, choose_heartbeat_seconds
from robustbench_local.cli.progress_display import ProgressDisplay
from robustbench_local.cli.run_progress import CellProgress, Clock
from robustbench_local.cli.terminal_output import print_json
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store.diagnostic_records import DiagnosticsRecord
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts


class JsonDisplay(ProgressDisplay):
    """One JSON object per line on standard output.

    Args:
        console: The console to print on.
        max_seconds: Maximum seconds by key of the cell, where known.
        clock: Returns seconds that only grow.
    """

    def __init__(
        self,
        console: Console,
        max_seconds: Mapping[str, float] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(max_seconds, clock)
        self.console = console
        self._started = self._last_print = clock()
        self._heartbeat = Heartbeat(self.print_heartbeat)
        self._mutex = threading.RLock()

    def __enter__(self) -> JsonDisplay:
        self._heartbeat.start()
        return self

    def stop(self) -> None:
        """Stop the regular objects."""
        self._heartbeat.stop()

    def on_plan_ready(self, plan: Plan) -> None:
        """Print the size of the run."""
        super().on_plan_ready(plan)
        self._print_event(
            "run_started",
            name=plan.name,
            cells=len(plan.cells),
            images=len(plan.data),
            image_attacks=self.state.image_count,
            seed=plan.seed,
            max_seconds_left=_round_seconds(self.state.max_seconds_left),
        )

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Print what the models answered."""
        keys = ("id", "model", "defense", "status", "sentence")
        results = [{key: getattr(result, key) for key in keys} for result in diagnosis.results]
        self._print_event(
            "diagnosis",
            results=results,
            passes=diagnosis.passes,
            planned_passes=diagnosis.planned_passes,
        )

    def on_cell_known(self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts) -> None:
        """Print what an earlier call has done."""
        super().on_cell_known(cell, status, counts)
        self._print_cell("cell_known", self.state.get_row(cell), status=status)

    def on_cell_start(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Print the start of a cell."""
        super().on_cell_start(cell, counts)
        self._print_cell("cell_started", self.state.get_row(cell), is_pilot=self.state.is_pilot)

    def on_batch_end(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Print the progress of the cell."""
        super().on_batch_end(cell, counts)
        self._print_progress(self.state.get_row(cell))

    def on_cell_end(
        self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts, error: str | None
    ) -> None:
        """Print the end of the cell."""
        super().on_cell_end(cell, status, counts, error)
        row = self.state.get_row(cell)
        self._print_cell("cell_ended", row, **self._describe_counts(row), status=status, error=error)

    def on_event(self, event: EventRecord) -> None:
        """Print the event."""
        self._print_event(event.level, message=event.message, key=event.cell)

    def print_heartbeat(self) -> None:
        """Print the progress of the cell at work, if nothing was printed lately."""
        now, row = self.clock(), None if self.progress is None else self.progress.current
        if row is not None and now - self._last_print >= choose_heartbeat_seconds(now - self._started):
            self._print_progress(row)

    def _print_progress(self, row: CellProgress) -> None:
        state, rest = self.state, self.state.estimate_seconds_left()
        left = rest and {
            "low": round(rest.low, 1), "value": round(rest.value, 1), "high": round(rest.high, 1)
        }  # fmt: skip
        self._print_cell(
            "progress",
            row,
            **self._describe_counts(row),
            share_done=round(state.share_done, 4),
            elapsed_seconds=_round_seconds(state.elapsed_seconds),
            seconds_left=left,
            measured_images=state.measured_images,
            max_seconds_left=_round_seconds(state.max_seconds_left),
            batch_passes=row.count_batch_passes(),
        )

    def _describe_counts(self, row: CellProgress) -> dict[str, Any]:
        counts, is_whole = row.counts, row.counts.n == row.images  # the first images are no sample of all
        is_shown = is_whole and row.cell.record.measure != "views" and not self.state.in_groups
        share = compute_clopper_pearson(counts.robust, counts.n).to_json()
        return {
            "robust": counts.robust,
            "robust_accuracy": share if is_shown else None,
            "passes": counts.forward_passes + counts.backward_passes,
            "seconds": _round_seconds(row.elapsed_seconds),
        }

    def _print_cell(self, event: str, row: CellProgress, **facts: Any) -> None:
        record = row.cell.record
        self._print_event(
            event,
            cell=row.number,
            cells=len(self.state.cells),
            model=record.model,
            defense=record.defense,
            attack=record.attack,
            label=self.labels.get_attack_label(record.attack),
            images=row.images,
            done=row.counts.n,
            **facts,
        )

    def _print_event(self, event: str, **facts: Any) -> None:
        with self._mutex:
            self._last_print = self.clock()
            print_json(self.console, {"event": event, **facts})


def _round_seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
