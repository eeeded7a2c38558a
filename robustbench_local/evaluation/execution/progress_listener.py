"""What a run tells while it works. The command line shows it; Python users may listen as well."""

from __future__ import annotations

from robustbench_local.evaluation.planning.plan import Plan, PlannedCell
from robustbench_local.store.records import CellStatus, EventRecord, Tally


class Listener:
    """Hears nothing; override what you want to hear."""

    def planned(self, plan: Plan) -> None:
        """The plan stands and has been checked."""

    def started(self, cell: PlannedCell, done: Tally) -> None:
        """A cell starts, or goes on after an interruption with ``done`` behind it."""

    def advanced(self, cell: PlannedCell, done: Tally) -> None:
        """A batch of a cell was verified and committed."""

    def finished(self, cell: PlannedCell, status: CellStatus, done: Tally, error: str | None) -> None:
        """A cell ended."""

    def told(self, event: EventRecord) -> None:
        """Something worth telling happened."""
