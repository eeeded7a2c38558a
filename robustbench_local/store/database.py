"""Opening ``run.db`` for its one writer or for readers, even if the folder is read-only, copied or in use."""

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
from robustbench_local.store.lock import is_being_written
from robustbench_local.store.migrations import is_current_schema, migrate_database, read_schema_version
from robustbench_local.store.run_folder import LOCK_NAME
from robustbench_local.store.unchanged_file import is_unchanged, record_file_digest, remove_file_digest

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
"""Parts of SQLite's messages for a damaged schema, under the code of any SQL error."""
_LOCATION_CODES = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open or create a database of the current schema.

    A commit is on the disk when it returns (WAL, synchronous=FULL), and readers are never blocked.

    Raises:
        DamagedError: The file is not a database, or its content is damaged.
        ConfigError: It belongs to another program, has a newer schema, or its location is not writable.
        RefusedError: It is a symbolic link.
        StorageError: The disk refused a write.
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
                refuse_damaged(connection, path)  # before the file is changed
            else:
                _refuse_lost_pages(connection, path)
            remove_file_digest(path)
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
    """Refuse a database without tables, which would look like a run in which nothing failed."""
    if not read_schema_version(connection):
        what = "run.db is empty: nothing was committed, or its log run.db-wal was not copied with it"
        raise ConfigError(what, where=str(path.parent), remedy="copy the log too, or run the grid again")


def refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    """Raise an error if any part of a database of the current schema is damaged.

    The rows of a file that is what its writer left are not checked again (see ``unchanged_file``).

    Raises:
        DamagedError: With the damaged parts, and what to do.
    """
    if is_current_schema(connection, path) and is_unchanged(path):
        return
    if damages := find_damage(connection):
        raise build_damage_error(damages, path)


def _refuse_lost_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse to migrate a database whose pages are inconsistent."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise DamagedError(f"the database is damaged ({verdict})", where=str(path), remedy=_DAMAGE_REMEDY)


def close_for_writing(connection: sqlite3.Connection, path: Path, *, is_own: bool = False) -> None:
    """Close so that ``run.db`` alone is the whole run and opens from read-only media.

    Active readers may keep the write-ahead log beside it; then both files together are the run.

    Args:
        connection: The database.
        path: ``run.db``.
        is_own: Whether no other process has written to it since it was checked; then its digest is recorded.
    """
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 500")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    if is_own:
        record_file_digest(path)


def open_for_reading(path: Path, *, copies_log: bool = False) -> sqlite3.Connection:
    """Open an existing database without changing it; an older schema is migrated in memory.

    Args:
        path: ``run.db``.
        copies_log: As for `open_unmigrated`.

    Raises:
        ConfigError: There is no run here, or it is not ours, of a newer schema, or damaged.
    """
    connection = open_unmigrated(path, copies_log=copies_log)
    with convert_database_errors(path):
        try:
            if is_current_schema(connection, path):
                return connection
            migrated = _copy_to_memory(connection)
        except BaseException:
            connection.close()
            raise
        connection.close()
        migrate_database(migrated)
        return migrated


def open_unmigrated(path: Path, *, copies_log: bool = False) -> sqlite3.Connection:
    """Open an existing database without changing it, in the schema that it was written in.

    Args:
        path: ``run.db``.
        copies_log: Whether a killed run is read in a copy: SQLite writes to the index beside a log that it
            reads, which changes no data, but a file of the run.

    Raises:
        ConfigError: There is no run here, or it is not ours, of a newer schema, or damaged.
    """
    if not path.is_file():
        raise ConfigError("there is no run here (no run.db)", where=str(path.parent))
    check_user_file(path)
    with convert_database_errors(path):
        connection = _connect_readonly(path, copies_log=copies_log)
        try:
            if not is_current_schema(connection, path):
                _refuse_empty_run(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def convert_database_errors(path: Path) -> Iterator[None]:
    """Convert SQLite's errors to one-line errors with the right exit code.

    Raises:
        StorageError: The disk is full or failing, or another program holds the database.
        DamagedError: Not a database, or a damaged one.
        ConfigError: Its location cannot be used.
        InvariantError: Our own code broke a constraint.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _convert_sqlite_error(error, path) from error
    except UnicodeDecodeError as error:  # SQLite's message quotes the damaged text
        what = "not a readable database (its schema is damaged)"
        raise DamagedError(what, where=str(path), remedy=_DAMAGE_REMEDY) from error


def _convert_sqlite_error(error: sqlite3.Error, path: Path) -> RobustbenchError:
    # The low byte is the kind of error; the rest gives details.
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


def _connect_readonly(path: Path, *, copies_log: bool) -> sqlite3.Connection:
    log = path.with_name(f"{path.name}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    if copies_log and has_log and not is_being_written(path.with_name(LOCK_NAME)):
        return _copy_with_log(path, log)
    try:
        return _connect_uri(path, "mode=ro")
    except sqlite3.OperationalError:
        # A database in WAL mode needs its -shm file, which cannot be created in a read-only folder.
        if not has_log:
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
    """Copy a killed run to replay its log, which holds the last commits, elsewhere."""
    check_user_file(log)
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
