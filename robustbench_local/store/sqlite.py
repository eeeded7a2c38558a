"""The run directory: what was measured, kept so that a kill at any moment loses at most one chunk."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from robustbench_local.errors import ConfigError, InvariantError
from robustbench_local.store import arrays as _arrays
from robustbench_local.store import rows as _rows
from robustbench_local.store.database import (
    close_for_writing,
    database_errors,
    open_for_reading,
    open_for_writing,
)
from robustbench_local.store.files import make_directory, remove_unfinished, storage_errors, write_atomically
from robustbench_local.store.lock import DirectoryLock
from robustbench_local.store.records import (
    CellRecord,
    CellStatus,
    EventRecord,
    OutcomeRecord,
    SightingRecord,
    ViewRecord,
)

DATABASE, RESOLVED, LOCK = "run.db", "run.yaml", "run.lock"
UNKNOWN = "unknown"
"""Part of a run's identity that could not be found out, such as the digest of a model that cannot be loaded:
it agrees with any other."""

_SELECT_CELLS = f"SELECT {', '.join(_rows.CELL_COLUMNS)} FROM cells ORDER BY position, key"  # noqa: S608
_SELECT_OUTCOMES = f"SELECT {', '.join(_rows.OUTCOME_COLUMNS)} FROM outcomes WHERE cell = ? ORDER BY position"  # noqa: S608
_SELECT_SIGHTINGS = f"SELECT {', '.join(_rows.SIGHTING_COLUMNS)} FROM sightings WHERE cell = ?"  # noqa: S608
_SELECT_VIEWS = f"SELECT {', '.join(_rows.VIEW_COLUMNS)} FROM views WHERE cell = ?"  # noqa: S608
_SELECT_EVENTS = f"SELECT {', '.join(_rows.EVENT_COLUMNS)} FROM events ORDER BY number"  # noqa: S608


def _insert(table: str, columns: Sequence[str], on_conflict: str) -> str:
    names, places = ", ".join(columns), ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT {on_conflict}"  # noqa: S608


_DESCRIPTION = [name for name in _rows.CELL_COLUMNS if name not in {"key", "status", "error"}]
_INSERT_CELL = _insert(
    "cells",
    _rows.CELL_COLUMNS,
    "(key) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _DESCRIPTION),
)
_INSERT_OUTCOME = _insert("outcomes", _rows.OUTCOME_COLUMNS, "(cell, position) DO NOTHING")
_INSERT_SIGHTING = _insert(
    "sightings", _rows.SIGHTING_COLUMNS, "(cell, position, condition, kind) DO NOTHING"
)
_INSERT_VIEW = _insert("views", _rows.VIEW_COLUMNS, "(cell, position, kind) DO NOTHING")


class RunStore:
    """One run directory: ``run.db``, ``run.yaml`` and ``adversarial/*/*.safetensors``.

    Made by ``create_or_open`` (the one writer) or ``open_readonly`` (any number of readers, at any time).
    Safe to use from several threads of the process that opened it.

    Attributes:
        directory: The run directory.
        resumed: Whether the run existed before this writer.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: DirectoryLock | None) -> None:
        self.directory = directory
        self.resumed = False
        self._connection = connection
        self._lock = lock
        self._mutex = threading.RLock()

    @classmethod
    def create_or_open(cls, directory: Path | str, *, resolved: str, identity: Mapping[str, str]) -> RunStore:
        """Open a run for writing: start it, or resume it if it is the same one.

        Args:
            directory: Made if need be; must be empty, or hold this very run.
            resolved: The resolved grid as YAML, written to ``run.yaml``.
            identity: What makes two runs the same, e.g. ``{"data.seed": "0"}``.

        Raises:
            LockedError: Another process writes to it.
            ConfigError: It holds another run (names the keys that differ) or other files, or it cannot be
                written to, or its schema is newer.
            StorageError: The disk is full or failing.
        """
        directory = Path(directory)
        make_directory(directory)
        _refuse_foreign(directory)
        lock = DirectoryLock(directory / LOCK)
        try:
            store = cls(directory, open_for_writing(directory / DATABASE), lock)
        except BaseException:
            lock.release()
            raise
        try:
            store._settle(resolved, identity)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open_readonly(cls, directory: Path | str) -> RunStore:
        """Open a run for reading: finished, killed or being written; in place, copied or on read-only media.

        Raises:
            ConfigError: There is no run here, or its schema is newer, or it is damaged.
        """
        directory = Path(directory)
        with storage_errors(directory):
            return cls(directory, open_for_reading(directory / DATABASE), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Fold the log into ``run.db`` and give the directory free. A second call does nothing."""
        with self._mutex:
            if self._lock is None:
                self._connection.close()
                return
            close_for_writing(self._connection)
            lock, self._lock = self._lock, None
            lock.release()

    def identity(self) -> dict[str, str]:
        """What makes two runs the same."""
        return dict(self._read("SELECT key, value FROM identity ORDER BY key"))

    def put_cell(self, cell: CellRecord) -> None:
        """Add a cell, or describe a known one anew; a known one keeps its status, error and outcomes."""
        with self._transaction():
            self._connection.execute(_INSERT_CELL, _rows.cell_to_row(cell))

    def set_status(self, key: str, status: CellStatus, error: str | None = None) -> None:
        """Say where a cell stands, and why in one line.

        Raises:
            InvariantError: There is no such cell.
        """
        with self._transaction():
            line = None if error is None else _rows.storable(error)
            values = (status, line, key)
            cursor = self._connection.execute("UPDATE cells SET status = ?, error = ? WHERE key = ?", values)
            if cursor.rowcount != 1:
                raise InvariantError(f"no cell {key!r}")

    def remove_cell(self, key: str) -> None:
        """Forget a cell of which nothing was measured; one with outcomes stays.

        Raises:
            InvariantError: It has outcomes.
        """
        with self._transaction():
            if self._connection.execute("SELECT 1 FROM outcomes WHERE cell = ?", (key,)).fetchone():
                raise InvariantError(f"the cell {key!r} has outcomes")
            self._connection.execute("DELETE FROM cells WHERE key = ?", (key,))

    def cells(self) -> list[CellRecord]:
        """All cells, in the order of the grid."""
        return [_rows.row_to_cell(row) for row in self._read(_SELECT_CELLS)]

    def add_outcomes(
        self,
        key: str,
        outcomes: Sequence[OutcomeRecord],
        sightings: Sequence[SightingRecord] = (),
        views: Sequence[ViewRecord] = (),
    ) -> int:
        """Commit a chunk of outcomes with the looks behind them: all of it or, after a crash, nothing.

        Args:
            key: The cell.
            outcomes: One an image.
            sightings: What was read in the views of these images, where the cell has views.
            views: Those views.

        Returns:
            How many were new. An image whose outcome is known keeps its first one.

        Raises:
            StorageError: The disk refused; everything committed before is kept.
            InvariantError: An outcome of another cell, or no such cell.
        """
        cells = {row.cell for rows in (outcomes, sightings, views) for row in rows}
        if strangers := cells - {key}:
            raise InvariantError(f"outcomes of {sorted(strangers)} given to cell {key!r}")
        with self._transaction():
            for statement, looks in ((_INSERT_SIGHTING, sightings), (_INSERT_VIEW, views)):
                self._connection.executemany(statement, [_rows.series_to_row(look) for look in looks])
            values = [_rows.outcome_to_row(row) for row in outcomes]
            return self._connection.executemany(_INSERT_OUTCOME, values).rowcount

    def outcomes(self, key: str) -> list[OutcomeRecord]:
        """The committed outcomes of a cell by position; empty if there are none yet."""
        return [_rows.row_to_outcome(row) for row in self._read(_SELECT_OUTCOMES, key)]

    def sightings(self, key: str) -> list[SightingRecord]:
        """What was read in the views of a cell's images, by position; empty if the cell has no views."""
        return [_rows.row_to_sighting(row) for row in self._read(_SELECT_SIGHTINGS, key)]

    def views(self, key: str) -> list[ViewRecord]:
        """The views of a cell's images, by position; empty if the cell has none."""
        return [_rows.row_to_view(row) for row in self._read(_SELECT_VIEWS, key)]

    def positions_done(self, key: str) -> set[int]:
        """Positions of a cell whose outcome is committed."""
        return {row[0] for row in self._read("SELECT position FROM outcomes WHERE cell = ?", key)}

    def add_event(self, event: EventRecord) -> None:
        """Commit an event."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO events (time, level, message, cell) VALUES (?, ?, ?, ?)",
                (event.time, event.level, _rows.storable(event.message), event.cell),
            )

    def events(self) -> list[EventRecord]:
        """All events, oldest first."""
        rows = self._read(_SELECT_EVENTS)
        return [EventRecord(**dict(zip(_rows.EVENT_COLUMNS, row, strict=True))) for row in rows]

    def set_meta(self, key: str, value: Any) -> None:
        """Remember something about the run as strict JSON: NaN becomes null, a tuple a list, keys strings."""
        self.update_meta({key: value})

    def update_meta(self, values: Mapping[str, Any]) -> None:
        """Remember several things in one step: after a crash all are known, or none."""
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [(key, _rows.to_json(value)) for key, value in values.items()],
            )

    def meta(self, key: str, default: Any = None) -> Any:
        """What was last remembered under the key, or the default."""
        found = self._read("SELECT value FROM meta WHERE key = ?", key)
        return _rows.from_json(found[0][0]) if found else default

    def save_arrays(self, cell_key: str, chunk: int, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Write a chunk of a cell's arrays; the same chunk written again replaces the first.

        Args:
            cell_key: Key of the cell.
            chunk: Number that depends on the images alone, e.g. the position of the first one.
            arrays: Name -> (M, ...); the same names in every chunk of a cell.

        Raises:
            StorageError: The disk refused; the chunk's old content, if any, is kept.
        """
        self._check_writable()
        _arrays.save(self.directory, cell_key, chunk, arrays)

    def load_arrays(self, cell_key: str) -> dict[str, npt.NDArray[np.generic]]:
        """A cell's arrays, (sum of M, ...), chunks in the order of their numbers; empty if there are none."""
        return _arrays.load(self.directory, cell_key)

    def _settle(self, resolved: str, identity: Mapping[str, str]) -> None:
        """Make sure that this is the same run, and say what happened to it."""
        known = self.identity()
        if known:
            _refuse_other_run(self.directory, known, identity)
            unknown = [key for key in identity if known.get(key, UNKNOWN) == UNKNOWN]
            self._identify({key: identity[key] for key in unknown})
            self.resumed = True
        else:
            self._identify(identity)
        remove_unfinished(self.directory)
        write_atomically(self.directory / RESOLVED, resolved)
        if self._lock is not None and self._lock.taken_over:
            now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            self.add_event(EventRecord(time=now, level="warning", message=self._lock.taken_over))

    def _identify(self, identity: Mapping[str, str]) -> None:
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO identity VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                list(identity.items()),
            )

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._mutex, database_errors(self.directory / DATABASE):
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, on the disk when it ends."""
        self._check_writable()
        with self._mutex, database_errors(self.directory / DATABASE):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # Some errors, such as a full disk, make SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _check_writable(self) -> None:
        if self._lock is None:
            raise InvariantError("the run is open for reading only", where=str(self.directory))


def _refuse_foreign(directory: Path) -> None:
    """A folder with things in it that is no run stays as it is."""
    with storage_errors(directory):
        names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    if DATABASE not in names and any(name != LOCK for name in names):
        what = f"the folder is not empty and holds no run (it has {names[0]!r})"
        raise ConfigError(what, where=str(directory), remedy="choose a new or empty folder")


def _refuse_other_run(directory: Path, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Resuming another grid's run would mix two experiments in one table."""
    differing = [
        key
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key) and UNKNOWN not in (there.get(key), here.get(key))
    ]
    if not differing:
        return
    parts = [f"{key}: {_short(there.get(key))} there, {_short(here.get(key))} here" for key in differing[:3]]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise ConfigError(
        f"the folder holds a run of another grid ({'; '.join(parts)}{more})",
        where=str(directory),
        remedy="use another --out, or the grid of this run",
    )


def _short(value: str | None) -> str:
    if value is None:
        return "absent"
    return f"{value[:12]}..." if re.fullmatch(r"[0-9a-f]{32,}", value) else value
