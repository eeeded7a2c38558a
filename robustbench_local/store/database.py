"""Opening ``run.db``: for its one writer, or for readers, be the folder read-only, copied or in use."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from robustbench_local.errors import ConfigError, InvariantError, RobustbenchError, StorageError
from robustbench_local.store.migrations import check_schema, migrate

_WAIT_FOR_READERS = 30.0
_DAMAGED = "restore it from a copy, or choose a new folder and run again"
_NOT_OURS = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_WRONG_PLACE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open or make a database of today's schema.

    A commit is on the disk when it returns (WAL, synchronous=FULL), and readers are never blocked.

    Raises:
        ConfigError: Not ours, of a newer schema, damaged, or in a place that cannot be written to.
        StorageError: The disk refused.
    """
    with database_errors(path):
        connection = sqlite3.connect(
            path, timeout=_WAIT_FOR_READERS, isolation_level=None, check_same_thread=False
        )
        try:
            check_schema(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            _refuse_damaged(connection, path)
            migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise ConfigError(f"the database is damaged ({verdict})", where=str(path), remedy=_DAMAGED)


def close_for_writing(connection: sqlite3.Connection) -> None:
    """Close so that ``run.db`` alone is the whole run and opens from read-only media.

    Readers that are at work may keep the write-ahead log beside it; then both files together are it.
    """
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 500")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open an existing database without changing it; one of an older schema is migrated in memory.

    Raises:
        ConfigError: There is no run here, or it is not ours, of a newer schema, or damaged.
    """
    if not path.is_file():
        raise ConfigError("there is no run here (no run.db)", where=str(path.parent))
    with database_errors(path):
        connection = _connect_readonly(path)
        try:
            if check_schema(connection, path):
                return connection
            today = _in_memory(connection)
        except BaseException:
            connection.close()
            raise
        connection.close()
        migrate(today)
        return today


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one line with the right exit code.

    Raises:
        StorageError: The disk is full or failing, or another program holds the database.
        ConfigError: Not a database, damaged, or in a place that cannot be used.
        InvariantError: Our own code broke a constraint.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _spoken(error, path) from error


def _spoken(error: sqlite3.Error, path: Path) -> RobustbenchError:
    # The low byte is the kind; the rest says more closely what happened.
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    where = str(path)
    if kind in _NOT_OURS:
        return ConfigError(f"not a readable database ({error})", where=where, remedy=_DAMAGED)
    if kind in _WRONG_PLACE:
        return ConfigError(f"cannot be used here ({error})", where=where, remedy="choose another folder")
    if isinstance(error, sqlite3.OperationalError):
        remedy = "free some space or close the other program and run the same command again"
        return StorageError(f"the write was refused ({error})", where=where, remedy=remedy)
    return InvariantError(f"the store was misused ({error})", where=where)


def _connect_readonly(path: Path) -> sqlite3.Connection:
    try:
        return _connect_uri(path, "mode=ro")
    except sqlite3.OperationalError:
        # A database in WAL mode needs its -shm file, which a read-only folder cannot get.
        log = path.with_name(f"{path.name}-wal")
        if not log.exists() or log.stat().st_size == 0:
            return _connect_uri(path, "immutable=1")
    return _copy_with_log(path, log)


def _connect_uri(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?{mode}",
        uri=True,
        timeout=_WAIT_FOR_READERS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _copy_with_log(path: Path, log: Path) -> sqlite3.Connection:
    """A killed run on read-only media: its last commits are in the log, which only a copy can replay."""
    with tempfile.TemporaryDirectory(prefix="rbl-") as scratch:
        copy = Path(scratch, path.name)
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name(log.name))
        connection = sqlite3.connect(os.fspath(copy), isolation_level=None)
        try:
            return _in_memory(connection)
        finally:
            connection.close()


def _in_memory(connection: sqlite3.Connection) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.backup(memory)
    return memory
