"""The progress events of a run. The command line shows them; Python users may listen as well."""

from __future__ import annotations

from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts


class ProgressListener:
    """A listener that ignores every event; override the methods for the events of interest."""

    def on_plan_ready(self, plan: Plan) -> None:
        """The plan stands and has been checked."""

    def on_cell_start(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """A cell starts, or goes on after an interruption with ``done`` behind it."""

    def on_batch_end(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """A batch of a cell was verified and committed."""

    def on_cell_end(
        self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts, error: str | None
    ) -> None:
        """A cell ended."""

    def on_event(self, event: EventRecord) -> None:
        """Something worth telling happened."""
