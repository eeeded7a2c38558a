"""What a run remembers, and how it survives a kill: records, run.db, the lock and the arrays."""

from __future__ import annotations

from robustbench_local.store.records import (
    CellRecord,
    CellStatus,
    EventRecord,
    OutcomeRecord,
    OutcomeStatus,
    Tally,
    tally,
)
from robustbench_local.store.sqlite import RunStore

__all__ = [
    "CellRecord",
    "CellStatus",
    "EventRecord",
    "OutcomeRecord",
    "OutcomeStatus",
    "RunStore",
    "Tally",
    "tally",
]
