"""The database of a run, of which nothing is read that was damaged or half written."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_local.store.database import convert_database_errors, refuse_damaged


class CheckedDatabase:
    """Reads and writes in transactions; checked at first, and again when another process has written.

    Args:
        connection: To the database; closed by whoever opened it.
        path: Where it lies, for messages.

    Attributes:
        mutex: Held while it is read or written; threads of one process share the connection.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.mutex = threading.RLock()
        self._connection, self._path = connection, path
        self._checked_version: int | None = None

    def mark_checked(self) -> None:
        """Take what it holds now for checked: its writer has just opened it."""
        self._checked_version = self._read_data_version()

    def check_all(self) -> None:
        """Look at all of it.

        Raises:
            DamagedError: It is damaged anywhere.
        """
        with self.mutex, self._open_snapshot():
            self._check_snapshot()

    def read(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query.

        Raises:
            DamagedError: Another process has written since the last look, and it is damaged now.
        """
        with self.mutex, self._open_snapshot():
            rows = self._connection.execute(query, values).fetchall()
            if self._read_data_version() != self._checked_version:
                self._check_snapshot()
            return rows

    @contextmanager
    def open_transaction(self) -> Iterator[None]:
        """All or nothing, on the disk when it ends."""
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
        """A number that changes when another process has written."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def _open_snapshot(self) -> Iterator[None]:
        """Inside, everything is read as of one moment, whatever a writer commits."""
        with convert_database_errors(self._path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")
