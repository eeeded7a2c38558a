"""The progress events of a run. The command line shows them; Python users may listen as well."""

from __future__ import annotations

from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.store.diagnostic_records import DiagnosticsRecord
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts


class ProgressListener:
    """A listener that ignores every event; override the methods for the events of interest."""

    def on_plan_ready(self, plan: Plan) -> None:
        """Called when the plan is complete and has been checked."""

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Called when the diagnostics that ask the models are done, before the first attack."""

    def on_cell_start(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Called when a cell starts, or resumes with ``done`` images after an interruption."""

    def on_batch_end(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Called when a batch of a cell is verified and committed."""

    def on_cell_end(
        self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts, error: str | None
    ) -> None:
        """Called when a cell ends."""

    def on_event(self, event: EventRecord) -> None:
        """Called at any other event that a user should know about."""
