"""A damaged ``run.db`` made anew from its whole parts, so that only the damaged cells are computed again."""

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
"""The damaged database as it was, in the run directory."""


def rebuild_without_damage(directory: Path) -> list[str]:
    """Make a damaged database anew without what is damaged, and keep the old one beside it.

    Cells whose images are damaged are left out too, with those.

    Args:
        directory: The run directory; its lock is held.

    Returns:
        A line for each part that was left out; none if nothing is damaged.

    Raises:
        DamagedError: What makes the run this run is damaged too, or nothing can be read.
        StorageError: The disk refused; the damaged database is still there.
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
    return [f"left out, to be computed again: {damage.description}" for damage in damages]


def _find_damaged_images(
    directory: Path, source: sqlite3.Connection, known: Collection[str]
) -> Iterator[Damage]:
    """Cells whose rows are whole and whose files of arrays are not."""
    if DATABASE_PART in known:
        return
    checked = not source.execute("SELECT 1 FROM meta NOT INDEXED WHERE key = ?", (UNCHECKED_KEY,)).fetchone()
    for (key,) in source.execute("SELECT key FROM cells NOT INDEXED").fetchall():
        if digests.format_cell_part(key) in known:
            continue
        try:
            arrays.load_cell_arrays(directory, source, key, has_all_digests=checked)
        except (DamagedError, InvariantError) as error:
            yield Damage(digests.format_cell_part(key), f"images of cell {key[:12]}: {error.what}")


def _rebuild_database(path: Path, source: sqlite3.Connection, damages: Sequence[Damage]) -> None:
    wrong = {damage.part for damage in damages}
    with digests.tolerate_invalid_text(source):
        known = digests.list_parts(source)
    lost = next((damage for damage in damages if damage.part == "identity"), None)
    if lost is not None or "identity" not in digests.list_recorded_parts(source):
        raise _build_unreadable_error(path, (lost or damages[0]).description)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with convert_storage_errors(path):
        temporary.unlink(missing_ok=True)
        _copy_parts(source, temporary, [part for part in known if part not in wrong])
        _replace_database(path, temporary)


def _build_unreadable_error(path: Path, why: str) -> DamagedError:
    error = build_damage_error([Damage(DATABASE_PART, why)], path)
    remedy = "nothing of it can be kept: restore it from a copy, or choose a new folder and run again"
    return DamagedError(error.what, where=str(path), remedy=remedy)


def _copy_parts(source: sqlite3.Connection, target: Path, parts: Sequence[str]) -> None:
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        migrate_database(connection)
        connection.execute("BEGIN IMMEDIATE")
        for part in parts:
            for rows in digests.select_rows(part):
                found = source.execute(f"SELECT * FROM {rows.table} WHERE {rows.where}", rows.values)  # noqa: S608
                names = [column[0] for column in found.description]
                places = ", ".join("?" * len(names))
                statement = f"INSERT INTO {rows.table} ({', '.join(names)}) VALUES ({places})"  # noqa: S608
                connection.executemany(statement, found)
        digests.write_digests(connection)
        connection.execute("COMMIT")


def _replace_database(path: Path, new: Path) -> None:
    """Whatever moment a kill comes at, a database is there: the damaged one, or the new one."""
    log = path.with_name(f"{path.name}-wal")
    for old, name in ((path, DAMAGED_COPY_NAME), (log, f"{DAMAGED_COPY_NAME}-wal")):
        if old.exists():
            shutil.copyfile(old, old.with_name(name))
    # The old log would be replayed into the new database.
    for leftover in (log, path.with_name(f"{path.name}-shm")):
        leftover.unlink(missing_ok=True)
    new.replace(path)
    sync_directory(path.parent)
