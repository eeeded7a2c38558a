"""What a run remembers, and how it survives a kill: records, run.db, the lock and the arrays."""

from __future__ import annotations

from robustbench_local.store.records import (
    BLACK_BOX_STAGES,
    LEAST_CLEAN,
    CellRecord,
    CellStatus,
    Condition,
    EventRecord,
    OutcomeRecord,
    OutcomeStatus,
    SightingRecord,
    SurfaceRecord,
    Tally,
    ViewKind,
    ViewRecord,
    tally,
)
from robustbench_local.store.run_store import RunStore

__all__ = [
    "BLACK_BOX_STAGES",
    "LEAST_CLEAN",
    "CellRecord",
    "CellStatus",
    "Condition",
    "EventRecord",
    "OutcomeRecord",
    "OutcomeStatus",
    "RunStore",
    "SightingRecord",
    "SurfaceRecord",
    "Tally",
    "ViewKind",
    "ViewRecord",
    "tally",
]
