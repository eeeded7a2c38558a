"""Opening ``run.db``: for its one writer, or for readers, be the folder read-only, copied or in use."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from robustbench_local.config.user_files import check_user_file
from robustbench_local.errors import ConfigError, DamagedError, InvariantError, RobustbenchError, StorageError
from robustbench_local.store.atomic_files import refuse_link
from robustbench_local.store.damage import build_damage_error, find_damage
from robustbench_local.store.migrations import is_current_schema, migrate_database, read_schema_version

_BUSY_TIMEOUT_SECONDS = 30.0
_DAMAGE_REMEDY = "restore it from a copy, or choose a new folder and run again"
_DAMAGE_CODES = frozenset(
    {
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }
)
_SCHEMA_DAMAGE_MESSAGES = (
    "no such",
    "malformed",
    "already exists",
    "duplicate column",
    "has no column",
    "decode to UTF-8",
)
"""What SQLite says, under its code for any mistake in SQL, when a table is not what it was made as."""
_LOCATION_CODES = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open or make a database of today's schema.

    A commit is on the disk when it returns (WAL, synchronous=FULL), and readers are never blocked.

    Raises:
        DamagedError: No database, or one whose schema is damaged.
        ConfigError: Not ours, of a newer schema, or in a place that cannot be written to.
        RefusedError: A symbolic link is in its place.
        StorageError: The disk refused.
    """
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        refuse_link(path.with_name(name))
    if path.exists():
        check_user_file(path)
    with convert_database_errors(path):
        connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            if is_current_schema(connection, path):
                refuse_damaged(connection, path)  # before anything in the file changes
            else:
                _refuse_lost_pages(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            if not is_current_schema(connection, path):
                migrate_database(connection)
                refuse_damaged(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _refuse_empty_run(connection: sqlite3.Connection, path: Path) -> None:
    """A run of no cells would read as one in which nothing failed."""
    if not read_schema_version(connection):
        what = "run.db is empty: nothing was committed, or its log run.db-wal was not copied with it"
        raise ConfigError(what, where=str(path.parent), remedy="copy the log too, or run the grid again")


def refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    """Raise about whatever is damaged in a database of today's schema.

    Raises:
        DamagedError: With the parts that are, and what to do.
    """
    if damages := find_damage(connection):
        raise build_damage_error(damages, path)


def _refuse_lost_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Nothing is migrated whose pages do not hang together."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise DamagedError(f"the database is damaged ({verdict})", where=str(path), remedy=_DAMAGE_REMEDY)


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
    check_user_file(path)
    with convert_database_errors(path):
        connection = _connect_readonly(path)
        try:
            if is_current_schema(connection, path):
                return connection
            _refuse_empty_run(connection, path)
            today = _copy_to_memory(connection)
        except BaseException:
            connection.close()
            raise
        connection.close()
        migrate_database(today)
        return today


@contextlib.contextmanager
def convert_database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one line with the right exit code.

    Raises:
        StorageError: The disk is full or failing, or another program holds the database.
        DamagedError: Not a database, or a damaged one.
        ConfigError: It is in a place that cannot be used.
        InvariantError: Our own code broke a constraint.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _convert_sqlite_error(error, path) from error
    except UnicodeDecodeError as error:  # SQLite's message quotes what is damaged
        what = "not a readable database (its schema is damaged)"
        raise DamagedError(what, where=str(path), remedy=_DAMAGE_REMEDY) from error


def _convert_sqlite_error(error: sqlite3.Error, path: Path) -> RobustbenchError:
    # The low byte is the kind; the rest says more closely what happened.
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    where = str(path)
    if kind in _DAMAGE_CODES or (
        kind == sqlite3.SQLITE_ERROR and any(sign in str(error) for sign in _SCHEMA_DAMAGE_MESSAGES)
    ):
        return DamagedError(f"not a readable database ({error})", where=where, remedy=_DAMAGE_REMEDY)
    if kind in _LOCATION_CODES:
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
        timeout=_BUSY_TIMEOUT_SECONDS,
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
            return _copy_to_memory(connection)
        finally:
            connection.close()


def _copy_to_memory(connection: sqlite3.Connection) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.backup(memory)
    return memory
