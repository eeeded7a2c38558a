"""The progress events of a run. The command line shows them; Python users may listen as well."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.store.diagnostic_records import DiagnosticsRecord
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts


class ProgressListener:
    """A listener that ignores every event; override the methods for the events of interest."""

    def on_plan_ready(self, plan: Plan) -> None:
        """Called when the plan is complete and has been checked."""

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Called when the diagnostics that ask the models are done, before the first attack."""

    def on_cell_known(self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts) -> None:
        """Called before the first cell, for each cell that an earlier call of the same run began or ended."""

    def on_pilot_start(self, cells: Sequence[CellSpec]) -> None:
        """Called before the first images of these large cells are run; not called if there is none."""

    def on_pilot_end(self) -> None:
        """Called when the first images of all large cells are done."""

    def on_cell_start(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Called when work on a cell begins, or goes on after a pause or an interruption.

        On a cluster several cells may be at work at once.

        Args:
            cell: The cell.
            counts: Counts over its images that are done already.
        """

    def on_cell_pause(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Called when the work on a cell stops for now, after its pilot or a part of its images."""

    def on_batch_end(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Called when a batch of a cell is verified and committed."""

    def on_cell_end(
        self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts, error: str | None
    ) -> None:
        """Called when a cell ends."""

    def on_event(self, event: EventRecord) -> None:
        """Called at any other event that a user should know about."""
