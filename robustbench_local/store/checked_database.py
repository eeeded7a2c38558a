"""The database of a run, which never returns damaged or partial data."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_local.store.database import convert_database_errors, refuse_damaged

_ROWS_TRANSPOSED = 1000
"""Rows that are turned into columns together: few enough for the processor's cache."""


class CheckedDatabase:
    """Reads and writes in transactions; checks the data first, and again after another process has written.

    Args:
        connection: The connection; its opener closes it.
        path: The path of the database, for messages.

    Attributes:
        mutex: Lock for reads and writes, because threads of one process share the connection.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.mutex = threading.RLock()
        self._connection, self._path = connection, path
        self._checked_version: int | None = None

    def mark_checked(self) -> None:
        """Mark the current content as checked, because its writer has just opened it."""
        self._checked_version = self._read_data_version()

    def is_checked(self) -> bool:
        """Return whether no other process has written since the content was checked."""
        with contextlib.suppress(sqlite3.Error):
            return self._checked_version == self._read_data_version()
        return False

    def check_all(self) -> None:
        """Check the whole database.

        Raises:
            DamagedError: Some part of it is damaged.
        """
        with self.mutex, self._open_snapshot():
            self._check_snapshot()

    def read(self, query: str, *values: Any) -> list[Any]:
        """Return the rows of a query.

        Raises:
            DamagedError: Another process has written since the last check, and the database is damaged now.
        """
        with self.read_one_moment():
            return self._connection.execute(query, values).fetchall()

    def read_columns(self, query: str, *values: Any) -> list[list[Any]]:
        """Return the columns of a query, with few rows in memory besides them.

        Raises:
            DamagedError: As for ``read``.
        """
        with self.read_one_moment():
            cursor = self._connection.execute(query, values)
            columns: list[list[Any]] = [[] for _ in cursor.description]
            while rows := cursor.fetchmany(_ROWS_TRANSPOSED):
                for column, part in zip(columns, zip(*rows, strict=True), strict=True):
                    column.extend(part)
            return columns

    @contextmanager
    def read_one_moment(self) -> Iterator[None]:
        """Let all reads inside the context be of one moment; then check the content if it is new."""
        with self.mutex:
            if self._connection.in_transaction:  # inside another such context of this thread
                yield
                return
            with self._open_snapshot():
                yield
                if self._read_data_version() != self._checked_version:
                    self._check_snapshot()

    @contextmanager
    def open_transaction(self) -> Iterator[None]:
        """Open a transaction: all or nothing, and on the disk when it ends."""
        with self.mutex, convert_database_errors(self._path):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # Some errors, such as a full disk, make SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _check_snapshot(self) -> None:
        refuse_damaged(self._connection, self._path)
        self._checked_version = self._read_data_version()

    def _read_data_version(self) -> int:
        """Return a number that changes when another process has written."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def _open_snapshot(self) -> Iterator[None]:
        """Read everything inside the context as of one moment, whatever a writer commits."""
        with convert_database_errors(self._path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")
