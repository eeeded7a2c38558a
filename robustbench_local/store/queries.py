"""The SQL statements for ``run.db``."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_local.errors import InvariantError
from robustbench_local.store import record_rows as rows

SELECT_CELLS = f"SELECT {', '.join(rows.CELL_COLUMNS)} FROM cells NOT INDEXED ORDER BY position, key"  # noqa: S608
SELECT_OUTCOMES = f"SELECT {', '.join(rows.OUTCOME_COLUMNS)} FROM outcomes WHERE cell = ? ORDER BY position"  # noqa: S608
SELECT_SIGHTINGS = f"SELECT {', '.join(rows.SIGHTING_COLUMNS)} FROM sightings WHERE cell = ?"  # noqa: S608
SELECT_VIEWS = f"SELECT {', '.join(rows.VIEW_COLUMNS)} FROM views WHERE cell = ?"  # noqa: S608
SELECT_EVENTS = f"SELECT {', '.join(rows.EVENT_COLUMNS)} FROM events ORDER BY number"  # noqa: S608


def _build_insert(table: str, columns: Sequence[str], on_conflict: str) -> str:
    names, placeholders = ", ".join(columns), ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({names}) VALUES ({placeholders}) ON CONFLICT {on_conflict}"  # noqa: S608


_DESCRIPTIVE_COLUMNS = [name for name in rows.CELL_COLUMNS if name not in {"key", "status", "error"}]
INSERT_CELL = _build_insert(
    "cells",
    rows.CELL_COLUMNS,
    "(key) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _DESCRIPTIVE_COLUMNS),
)
INSERT_OUTCOME = _build_insert("outcomes", rows.OUTCOME_COLUMNS, "(cell, position) DO NOTHING")
INSERT_SIGHTING = _build_insert(
    "sightings", rows.SIGHTING_COLUMNS, "(cell, position, condition, kind) DO NOTHING"
)
INSERT_ARRAYS = _build_insert(
    "arrays", ("cell", "chunk", "digest"), "(cell, chunk) DO UPDATE SET digest = excluded.digest"
)
AT_POSITIONS = "cell = ? AND position IN (SELECT value FROM json_each(?))"
SELECT_OUTCOMES_AT = f"SELECT {', '.join(rows.OUTCOME_COLUMNS)} FROM outcomes WHERE {AT_POSITIONS} ORDER BY 2"  # noqa: S608
INSERT_VIEW = _build_insert("views", rows.VIEW_COLUMNS, "(cell, position, kind) DO NOTHING")


def select_outcome_columns(names: Sequence[str]) -> str:
    """Return the statement that selects some columns of a cell's outcomes, by position."""
    unknown = set(names) - set(rows.OUTCOME_COLUMNS)
    if unknown:
        raise InvariantError(f"outcomes have no columns {sorted(unknown)}")
    return f"SELECT {', '.join(names)} FROM outcomes WHERE cell = ? ORDER BY position"  # noqa: S608
