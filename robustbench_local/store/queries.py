"""What is asked of ``run.db``, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_local.store import record_rows as rows

SELECT_CELLS = f"SELECT {', '.join(rows.CELL_COLUMNS)} FROM cells NOT INDEXED ORDER BY position, key"  # noqa: S608
SELECT_OUTCOMES = f"SELECT {', '.join(rows.OUTCOME_COLUMNS)} FROM outcomes WHERE cell = ? ORDER BY position"  # noqa: S608
SELECT_SIGHTINGS = f"SELECT {', '.join(rows.SIGHTING_COLUMNS)} FROM sightings WHERE cell = ?"  # noqa: S608
SELECT_VIEWS = f"SELECT {', '.join(rows.VIEW_COLUMNS)} FROM views WHERE cell = ?"  # noqa: S608
SELECT_EVENTS = f"SELECT {', '.join(rows.EVENT_COLUMNS)} FROM events ORDER BY number"  # noqa: S608


def _insert(table: str, columns: Sequence[str], on_conflict: str) -> str:
    names, places = ", ".join(columns), ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT {on_conflict}"  # noqa: S608


_DESCRIPTION = [name for name in rows.CELL_COLUMNS if name not in {"key", "status", "error"}]
INSERT_CELL = _insert(
    "cells",
    rows.CELL_COLUMNS,
    "(key) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _DESCRIPTION),
)
INSERT_OUTCOME = _insert("outcomes", rows.OUTCOME_COLUMNS, "(cell, position) DO NOTHING")
INSERT_SIGHTING = _insert("sightings", rows.SIGHTING_COLUMNS, "(cell, position, condition, kind) DO NOTHING")
INSERT_ARRAYS = _insert(
    "arrays", ("cell", "chunk", "digest"), "(cell, chunk) DO UPDATE SET digest = excluded.digest"
)
AT = "cell = ? AND position IN (SELECT value FROM json_each(?))"
INSERT_VIEW = _insert("views", rows.VIEW_COLUMNS, "(cell, position, kind) DO NOTHING")
