"""Persistent state of a run, which survives a kill: records, run.db, the lock and the arrays."""

from __future__ import annotations

from robustbench_local.store.records import (
    AUTOATTACK_STAGES,
    BLACK_BOX_STAGES,
    MIN_CLEAN_SHARE,
    AdaptationRecord,
    CellRecord,
    CellStatus,
    Condition,
    EventRecord,
    OutcomeCounts,
    OutcomeRecord,
    OutcomeStatus,
    SurfaceRecord,
    ViewKind,
    ViewPredictionsRecord,
    ViewRecord,
    count_outcomes,
)
from robustbench_local.store.run_store import RunStore

__all__ = [
    "AUTOATTACK_STAGES",
    "BLACK_BOX_STAGES",
    "MIN_CLEAN_SHARE",
    "AdaptationRecord",
    "CellRecord",
    "CellStatus",
    "Condition",
    "EventRecord",
    "OutcomeCounts",
    "OutcomeRecord",
    "OutcomeStatus",
    "RunStore",
    "SurfaceRecord",
    "ViewKind",
    "ViewPredictionsRecord",
    "ViewRecord",
    "count_outcomes",
]
