"""The run directory: results are stored so that a kill at any moment loses at most one chunk."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from robustbench_local.errors import DamagedError, InvariantError, StorageError
from robustbench_local.store import arrays as _arrays
from robustbench_local.store import queries as _queries
from robustbench_local.store import record_rows as _rows
from robustbench_local.store.atomic_files import (
    convert_storage_errors,
    make_directory,
    remove_temporary_files,
    write_atomically,
)
from robustbench_local.store.database import (
    close_for_writing,
    open_for_reading,
    open_for_writing,
)
from robustbench_local.store.digests import (
    CELL_TABLES,
    RowSelection,
    format_cell_part,
    maintain_digest,
    select_rows,
)
from robustbench_local.store.lock import DirectoryLock
from robustbench_local.store.rebuild import rebuild_without_damage
from robustbench_local.store.records import (
    CellRecord,
    CellStatus,
    EventRecord,
    OutcomeRecord,
    ViewPredictionsRecord,
    ViewRecord,
)
from robustbench_local.store.run_folder import (
    DATABASE_NAME,
    LOCK_NAME,
    RESOLVED_GRID_NAME,
    UNKNOWN_IDENTITY,
    refuse_foreign_folder,
    refuse_other_run,
)
from robustbench_local.store.run_reader import RunReader

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class RunStore(RunReader):
    """One run directory: ``run.db``, ``run.yaml`` and ``adversarial/*/*.safetensors``.

    Create it with ``create_or_open`` (the one writer) or ``open_readonly`` (any number of readers, at any
    time). It is safe to use from several threads of the process that opened it.

    Every row belongs to a part of the run that has a digest. The digest is written in the same transaction,
    and checked when the run is opened and again when another process has written to it. So no damaged data
    is returned.

    Attributes:
        directory: The run directory.
        resumed: True if the run existed before this writer.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: DirectoryLock | None) -> None:
        super().__init__(directory, connection)
        self.resumed = False
        self._lock = lock

    @classmethod
    def create_or_open(
        cls,
        directory: Path | str,
        *,
        resolved_yaml: str,
        identity: Mapping[str, str],
        recompute_damaged: bool = False,
    ) -> RunStore:
        """Open a run for writing: start it, or resume it if its identity matches.

        Args:
            directory: The run directory; it is created, or must be empty or hold this run.
            resolved_yaml: The resolved grid as YAML, written to ``run.yaml``.
            identity: The run's identity: two runs with equal parts are the same, e.g. ``{"data.seed": "0"}``.
            recompute_damaged: Drop cells whose rows or images are damaged, so that they are computed again.
                All others are kept, and so is a copy of the damaged database.

        Raises:
            LockedError: Another process writes to it.
            DamagedError: It is damaged and ``recompute_damaged`` is not set, or nothing can be kept.
            ConfigError: It holds another run (with the differing keys) or other files, is not writable, or
                has a newer schema.
            StorageError: The disk is full or failing.
        """
        directory = Path(directory)
        make_directory(directory)
        refuse_foreign_folder(directory)
        lock = DirectoryLock(directory / LOCK_NAME)
        try:
            dropped = rebuild_without_damage(directory) if recompute_damaged else []
            store = cls(directory, open_for_writing(directory / DATABASE_NAME), lock)
        except BaseException:
            lock.release_lock()
            raise
        try:
            store._database.mark_checked()
            store._check_or_write_identity(resolved_yaml, identity)
            for line in dropped:
                store.add_event(EventRecord(time=_format_utc_now(), level="warning", message=line))
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open_readonly(cls, directory: Path | str, *, copies_log: bool = False) -> RunStore:
        """Open a run for reading: finished, killed or being written; in place, copied or on read-only media.

        Args:
            directory: The run directory.
            copies_log: Whether a killed run is read in a copy, so that none of its files changes.

        Raises:
            DamagedError: It is damaged.
            ConfigError: There is no run here, or it has a newer schema.
        """
        store = cls._open_unchecked(Path(directory), copies_log=copies_log)
        try:
            store._database.check_all()  # noqa: SLF001
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _open_unchecked(cls, directory: Path, *, copies_log: bool = False) -> RunStore:
        with convert_storage_errors(directory):
            connection = open_for_reading(directory / DATABASE_NAME, copies_log=copies_log)
            return cls(directory, connection, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # discard images whose outcomes were never committed
            self._uncommitted_chunks = _arrays.UncommittedChunks()
        self.close()

    def close(self) -> None:
        """Merge the log into ``run.db`` and release the directory. A second call has no effect."""
        with self._mutex:
            if self._lock is None:
                self._connection.close()
                return
            with contextlib.suppress(StorageError, DamagedError):
                for key in self._uncommitted_chunks.list_cell_keys():
                    self._commit_array_digests(key)
            path, is_own = self.directory / DATABASE_NAME, self._database.is_checked()
            close_for_writing(self._connection, path, is_own=is_own)
            lock, self._lock = self._lock, None
            lock.release_lock()

    def put_cell(self, cell: CellRecord) -> None:
        """Add a cell, or update its description; an existing cell keeps its status, error and outcomes."""
        row = _rows.cell_to_row(cell)
        with (
            self._open_transaction(),
            self._maintain_cell_digest(cell.key, RowSelection("cells", "key = ?", row[:1])),
        ):
            self._connection.execute(_queries.INSERT_CELL, row)

    def set_status(self, key: str, status: CellStatus, error: str | None = None) -> None:
        """Set the status of a cell, with a reason in one line.

        Raises:
            InvariantError: There is no such cell.
        """
        line = None if error is None else _rows.escape_surrogates(error)
        values = (status, line, key)
        if status == "done":
            self._commit_array_digests(key)
        with (
            self._open_transaction(),
            self._maintain_cell_digest(key, RowSelection("cells", "key = ?", (key,))),
        ):
            cursor = self._connection.execute("UPDATE cells SET status = ?, error = ? WHERE key = ?", values)
            if cursor.rowcount != 1:
                raise InvariantError(f"no cell {key!r}")

    def remove_cell(self, key: str) -> None:
        """Remove a cell without outcomes.

        Raises:
            InvariantError: It has outcomes.
        """
        with self._open_transaction(), self._maintain_cell_digest(key, *select_rows(format_cell_part(key))):
            if self._connection.execute("SELECT 1 FROM outcomes WHERE cell = ?", (key,)).fetchone():
                raise InvariantError(f"the cell {key!r} has outcomes")
            for table in CELL_TABLES:
                self._connection.execute(f"DELETE FROM {table} WHERE cell = ?", (key,))  # noqa: S608
            self._connection.execute("DELETE FROM cells WHERE key = ?", (key,))

    def add_outcomes(
        self,
        key: str,
        outcomes: Sequence[OutcomeRecord],
        view_predictions: Sequence[ViewPredictionsRecord] = (),
        views: Sequence[ViewRecord] = (),
    ) -> int:
        """Commit a chunk of outcomes with its view predictions: all of it or, after a crash, nothing.

        Args:
            key: The cell.
            outcomes: One per image.
            view_predictions: The predictions in the views of these images, if the cell has views.
            views: Those views.

        Returns:
            The number of new outcomes. An image keeps its first outcome.

        Raises:
            StorageError: The disk refused a write; everything committed before is kept.
            InvariantError: An outcome of another cell, or no such cell.
        """
        cells = {row.cell for rows in (outcomes, view_predictions, views) for row in rows}
        if other_cells := cells - {key}:
            raise InvariantError(f"outcomes of {sorted(other_cells)} given to cell {key!r}")
        positions = json.dumps(
            [int(row.position) for rows in (outcomes, view_predictions, views) for row in rows]
        )
        selections = [
            RowSelection(table, _queries.AT_POSITIONS, (key, positions))
            for table in ("outcomes", "sightings", "views")
        ]
        files = self._uncommitted_chunks.list_chunks(key)
        with (
            self._open_transaction(),
            self._maintain_cell_digest(key, *selections, *_select_array_rows(key, files)),
        ):
            self._connection.executemany(_queries.INSERT_ARRAYS, files)
            for statement, records in (
                (_queries.INSERT_SIGHTING, view_predictions),
                (_queries.INSERT_VIEW, views),
            ):
                self._connection.executemany(statement, [_rows.series_to_row(record) for record in records])
            values = [_rows.outcome_to_row(row) for row in outcomes]
            added = self._connection.executemany(_queries.INSERT_OUTCOME, values).rowcount
        self._uncommitted_chunks.remove_cell(key)
        return added

    def add_event(self, event: EventRecord) -> None:
        """Commit an event."""
        new = RowSelection("events", "number > (SELECT ?)", (self._read_last_event_number(),))
        with self._open_transaction(), maintain_digest(self._connection, "events", [new]):
            self._connection.execute(
                "INSERT INTO events (time, level, message, cell) VALUES (?, ?, ?, ?)",
                (event.time, event.level, _rows.escape_surrogates(event.message), event.cell),
            )

    def set_meta(self, key: str, value: Any) -> None:
        """Store metadata of the run as strict JSON: NaN becomes null, a tuple a list, keys strings."""
        self.update_meta({key: value})

    def update_meta(self, values: Mapping[str, Any]) -> None:
        """Store several values in one step: after a crash all are stored, or none."""
        keys = json.dumps([*values])
        selection = RowSelection("meta", "key IN (SELECT value FROM json_each(?))", (keys,))
        with self._open_transaction(), maintain_digest(self._connection, "meta", [selection]):
            self._connection.executemany(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [(key, _rows.to_json(value)) for key, value in values.items()],
            )

    def save_arrays(self, cell_key: str, chunk: int, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Write a chunk of a cell's arrays; the same chunk written again replaces the first.

        Args:
            cell_key: Key of the cell.
            chunk: Number that depends only on the images, e.g. the position of the first one.
            arrays: Name -> (M, ...); the same names in every chunk of a cell.

        Raises:
            StorageError: The disk refused a write; the chunk's old content, if any, is kept.
        """
        self._check_writable()
        digest = _arrays.save_chunk(self.directory, cell_key, chunk, arrays)
        # Committed with the next outcomes; a kill in between leaves an unused file.
        self._uncommitted_chunks.add(cell_key, chunk, digest)

    def _check_or_write_identity(self, resolved: str, identity: Mapping[str, str]) -> None:
        """Check that this is the same run, or write the identity of a new one."""
        known = self.read_identity()
        if known:
            refuse_other_run(self.directory, known, identity)
            unknown = [key for key in identity if known.get(key, UNKNOWN_IDENTITY) == UNKNOWN_IDENTITY]
            self._write_identity({key: identity[key] for key in unknown})
            self.resumed = True
        else:
            self._write_identity(identity)
        remove_temporary_files(self.directory)
        write_atomically(self.directory / RESOLVED_GRID_NAME, resolved)
        if self._lock is not None and self._lock.takeover_message:
            self.add_event(
                EventRecord(time=_format_utc_now(), level="warning", message=self._lock.takeover_message)
            )

    def _write_identity(self, identity: Mapping[str, str]) -> None:
        with (
            self._open_transaction(),
            maintain_digest(self._connection, "identity", [RowSelection("identity")]),
        ):
            self._connection.executemany(
                "INSERT INTO identity VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                list(identity.items()),
            )

    def _maintain_cell_digest(
        self, key: str, *selections: RowSelection
    ) -> contextlib.AbstractContextManager[None]:
        return maintain_digest(self._connection, format_cell_part(key), selections)

    def _read_last_event_number(self) -> int:
        return int(self._read("SELECT coalesce(max(number), 0) FROM events")[0][0])

    def _commit_array_digests(self, key: str) -> None:
        """Commit the digests of a cell's files that have no new outcomes."""
        files = self._uncommitted_chunks.list_chunks(key)
        if files and self._read("SELECT 1 FROM cells NOT INDEXED WHERE key = ?", key):
            with self._open_transaction(), self._maintain_cell_digest(key, *_select_array_rows(key, files)):
                self._connection.executemany(_queries.INSERT_ARRAYS, files)
        self._uncommitted_chunks.remove_cell(key)

    def _open_transaction(self) -> contextlib.AbstractContextManager[None]:
        self._check_writable()
        return self._database.open_transaction()

    def _check_writable(self) -> None:
        if self._lock is None:
            raise InvariantError("the run is opened read-only", where=str(self.directory))


def _select_array_rows(key: str, files: Sequence[tuple[str, int, str]]) -> list[RowSelection]:
    return [RowSelection("arrays", "cell = ? AND chunk = ?", (key, chunk)) for _, chunk, _ in files]


def _format_utc_now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
