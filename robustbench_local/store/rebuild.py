"""Rebuilding a damaged ``run.db`` from its intact parts, so that only damaged cells are computed again."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from robustbench_local.errors import DamagedError, InvariantError
from robustbench_local.store import arrays, digests
from robustbench_local.store.atomic_files import convert_storage_errors, sync_directory
from robustbench_local.store.damage import DATABASE_PART, Damage, build_damage_error, find_damage
from robustbench_local.store.database import convert_database_errors, open_for_reading
from robustbench_local.store.migrations import UNCHECKED_KEY, migrate_database
from robustbench_local.store.run_folder import DATABASE_NAME

DAMAGED_COPY_NAME = "run.db.damaged"
"""Name of the copy of the damaged database in the run directory."""


def rebuild_without_damage(directory: Path) -> list[str]:
    """Rebuild a damaged database without its damaged parts, and keep a copy of the old one.

    Cells whose images are damaged are dropped together with the images.

    Args:
        directory: The run directory; the caller holds its lock.

    Returns:
        A line for each part that was dropped; none if nothing is damaged.

    Raises:
        DamagedError: The run's identity is damaged too, or nothing is readable.
        StorageError: The disk refused a write; the damaged database is still there.
    """
    path = directory / DATABASE_NAME
    if not path.exists() or path.stat().st_size == 0:
        return []
    source = open_for_reading(path)
    with closing(source), convert_database_errors(path):
        damages = find_damage(source)
        damages += _find_damaged_images(directory, source, {damage.part for damage in damages})
        if damages:
            _rebuild_database(path, source, damages)
    for damage in damages:
        if damage.cell_key is not None and re.fullmatch("[0-9a-zA-Z_-]+", damage.cell_key):
            arrays.remove_chunks(directory, damage.cell_key)
    return [f"dropped, to be recomputed: {damage.description}" for damage in damages]


def _find_damaged_images(
    directory: Path, source: sqlite3.Connection, known: Collection[str]
) -> Iterator[Damage]:
    """Yield cells whose rows are intact but whose array files are damaged."""
    if DATABASE_PART in known:
        return
    has_all_digests = not source.execute(
        "SELECT 1 FROM meta NOT INDEXED WHERE key = ?", (UNCHECKED_KEY,)
    ).fetchone()
    for (key,) in source.execute("SELECT key FROM cells NOT INDEXED").fetchall():
        if digests.format_cell_part(key) in known:
            continue
        try:
            arrays.load_cell_arrays(directory, source, key, has_all_digests=has_all_digests)
        except (DamagedError, InvariantError) as error:
            yield Damage(digests.format_cell_part(key), f"images of cell {key[:12]}: {error.what}")


def _rebuild_database(path: Path, source: sqlite3.Connection, damages: Sequence[Damage]) -> None:
    damaged_parts = {damage.part for damage in damages}
    with digests.tolerate_invalid_text(source):
        known = digests.list_parts(source)
    lost_identity = next((damage for damage in damages if damage.part == "identity"), None)
    if lost_identity is not None or "identity" not in digests.list_recorded_parts(source):
        raise _build_unreadable_error(path, (lost_identity or damages[0]).description)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with convert_storage_errors(path):
        temporary.unlink(missing_ok=True)
        _copy_parts(source, temporary, [part for part in known if part not in damaged_parts])
        _replace_database(path, temporary)


def _build_unreadable_error(path: Path, why: str) -> DamagedError:
    error = build_damage_error([Damage(DATABASE_PART, why)], path)
    remedy = "nothing in it is usable: restore it from a copy, or choose a new folder and run again"
    return DamagedError(error.what, where=str(path), remedy=remedy)


def _copy_parts(source: sqlite3.Connection, target: Path, parts: Sequence[str]) -> None:
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        migrate_database(connection)
        connection.execute("BEGIN IMMEDIATE")
        for part in parts:
            for rows in digests.select_rows(part):
                cursor = source.execute(f"SELECT * FROM {rows.table} WHERE {rows.where}", rows.values)  # noqa: S608
                names = [column[0] for column in cursor.description]
                placeholders = ", ".join("?" * len(names))
                statement = f"INSERT INTO {rows.table} ({', '.join(names)}) VALUES ({placeholders})"  # noqa: S608
                connection.executemany(statement, cursor)
        digests.write_digests(connection)
        connection.execute("COMMIT")


def _replace_database(path: Path, new: Path) -> None:
    """Replace the database so that a kill at any moment leaves the damaged one or the new one."""
    log = path.with_name(f"{path.name}-wal")
    for old, name in ((path, DAMAGED_COPY_NAME), (log, f"{DAMAGED_COPY_NAME}-wal")):
        if old.exists():
            shutil.copyfile(old, old.with_name(name))
    # The old log would be replayed into the new database.
    for leftover in (log, path.with_name(f"{path.name}-shm")):
        leftover.unlink(missing_ok=True)
    new.replace(path)
    sync_directory(path.parent)
