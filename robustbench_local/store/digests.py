"""Digests of the content of ``run.db``: one for each cell, and one for each table about the run.

The digest of a part is the sum, modulo 2**256, of the SHA-256 of its rows. A sum does not depend on the order
of the rows, and a commit updates it from the written rows alone, however many others there are. It is written
in the transaction of its rows, so that no kill leaves one without the other. One more digest covers all the
digests, so that none of them can go missing with its rows. Digests find damage; they are not signatures, and
anyone who changes rows on purpose can recompute them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

RUN_TABLES = ("identity", "meta", "events")
"""Tables about the run as a whole; each is a part of its own."""
CELL_TABLES = ("outcomes", "sightings", "views", "arrays")
"""Tables whose rows belong to a cell, like the row of ``cells`` itself."""
FIRST_DIGEST_SCHEMA = 7
"""The first schema with digests: if a later one has no table of digests, the table was lost."""
ALL_DIGESTS_PART = "digests"
"""The part whose digest covers the digests of all other parts."""

_CELL_PREFIX = "cell:"
_MODULUS = 1 << 256
_NO_ROWS = (0, 0)
_TRANSIENT_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
    }
)


class RowSelection(NamedTuple):
    """Some rows of a table."""

    table: str
    where: str = "1"
    """A condition in SQL."""
    values: Sequence[Any] = ()
    """The values of its question marks."""


def format_cell_part(key: str) -> str:
    """Return the name of the part that consists of a cell with all of its rows."""
    return f"{_CELL_PREFIX}{key}"


def parse_cell_key(part: str) -> str | None:
    """Return the key of the part's cell; None if the part is about the run as a whole."""
    return part.removeprefix(_CELL_PREFIX) if part.startswith(_CELL_PREFIX) else None


def select_rows(part: str) -> list[RowSelection]:
    """Select all rows of a part."""
    key = parse_cell_key(part)
    if key is None:
        return [RowSelection(part)]
    return [
        RowSelection("cells", "key = ?", (key,)),
        *(RowSelection(table, "cell = ?", (key,)) for table in CELL_TABLES),
    ]


@contextmanager
def maintain_digest(
    connection: sqlite3.Connection, part: str, selections: Sequence[RowSelection]
) -> Iterator[None]:
    """Let rows of a part change inside the context, then update the part's digest.

    Args:
        connection: With a transaction under way.
        part: The part.
        selections: All rows that may change, before and after; fewer rows are faster.
    """
    count, total = _hash_selections(connection, selections)
    yield
    new_count, new_total = _hash_selections(connection, selections)
    _add_to_digest(connection, part, new_count - count, new_total - total)


def find_damaged_parts(connection: sqlite3.Connection) -> list[str]:
    """Return the parts whose rows differ from what was written; none for a database without digests."""
    if not _has_digests(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        return [ALL_DIGESTS_PART] if version >= FIRST_DIGEST_SCHEMA else []
    with tolerate_invalid_text(connection):
        known = _read_digests(connection)
        damaged = [part for part in list_parts(connection) if not _is_intact(connection, part, known)]
    return damaged if known.get(ALL_DIGESTS_PART) == _hash_digests(known) else [*damaged, ALL_DIGESTS_PART]


def list_parts(connection: sqlite3.Connection) -> list[str]:
    """Return every part that has a digest or rows, in no particular order."""
    parts = [*RUN_TABLES, *_read_digests(connection), *map(format_cell_part, _list_cell_keys(connection))]
    return [part for part in dict.fromkeys(parts) if part != ALL_DIGESTS_PART]


def list_recorded_parts(connection: sqlite3.Connection) -> list[str]:
    """Return the parts that have a digest."""
    return list(_read_digests(connection))


def write_digests(connection: sqlite3.Connection, *, excluded_parts: Collection[str] = ()) -> None:
    """Write the digests of the database's current content.

    Args:
        connection: With a transaction under way.
        excluded_parts: Parts whose digests are not updated, because they are known to be damaged.
    """
    if not _has_digests(connection):
        return
    known = _read_digests(connection)
    for part in dict.fromkeys([*RUN_TABLES, *map(format_cell_part, _list_cell_keys(connection))]):
        if part not in excluded_parts:
            known[part] = _hash_selections(connection, select_rows(part))
            _write_digest(connection, part, known[part])
    if ALL_DIGESTS_PART not in excluded_parts:
        _write_digest(connection, ALL_DIGESTS_PART, _hash_digests(known))


@contextmanager
def tolerate_invalid_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Read text that is no longer UTF-8 inside the context, so that it can be compared."""
    previous_factory = connection.text_factory
    connection.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        connection.text_factory = previous_factory


def is_transient_error(error: Exception) -> bool:
    """Return True if an error has a passing cause (busy, failing disk, no memory), not damaged data."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _TRANSIENT_CODES


def hash_rows(table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> tuple[int, int]:
    """Return the number of rows and the sum of their hashes, modulo 2**256.

    Names, values and types count: 1, 1.0, true and "1" are different. Text is hashed as ASCII with escapes,
    which is the same in all versions of Python.
    """
    start = hashlib.sha256(ascii((table, tuple(names))).encode())
    count = total = 0
    for row in rows:
        digest = start.copy()
        digest.update(ascii(row).encode())
        total += int.from_bytes(digest.digest(), "big")
        count += 1
    return count, total % _MODULUS


def _hash_selections(connection: sqlite3.Connection, selections: Iterable[RowSelection]) -> tuple[int, int]:
    count = total = 0
    for rows in selections:
        # Without an index, because a damaged index could hide a row.
        hint = "NOT INDEXED" if rows.table in {"cells", *RUN_TABLES} else ""
        cursor = connection.execute(f"SELECT * FROM {rows.table} {hint} WHERE {rows.where}", rows.values)  # noqa: S608
        names = [column[0] for column in cursor.description]
        table_count, table_total = hash_rows(rows.table, names, cursor)
        count, total = count + table_count, total + table_total
    return count, total % _MODULUS


def _is_intact(connection: sqlite3.Connection, part: str, known: dict[str, tuple[int, int]]) -> bool:
    if part not in known or (parse_cell_key(part) is None and part not in RUN_TABLES):
        return False
    try:
        return known[part] == _hash_selections(connection, select_rows(part))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if is_transient_error(error):
            raise
        return False


def _add_to_digest(connection: sqlite3.Connection, part: str, count: int, total: int) -> None:
    if not count and not total:
        return
    old = _read_digest(connection, part)
    old_value, old_summary = old or _NO_ROWS, _read_digest(connection, ALL_DIGESTS_PART) or _NO_ROWS
    new = old_value[0] + count, (old_value[1] + total) % _MODULUS
    _write_digest(connection, part, new)
    change = _hash_digest(part, new) - (_hash_digest(part, old) if old else 0)
    _write_digest(
        connection, ALL_DIGESTS_PART, (old_summary[0] + (old is None), (old_summary[1] + change) % _MODULUS)
    )


def _read_digests(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    if not _has_digests(connection):
        return {}
    rows = connection.execute("SELECT part, rows, digest FROM digests")
    return {str(part): _parse_digest(count, digest) for part, count, digest in rows}


def _read_digest(connection: sqlite3.Connection, part: str) -> tuple[int, int] | None:
    row = connection.execute("SELECT rows, digest FROM digests WHERE part = ?", (part,)).fetchone()
    return None if row is None else _parse_digest(*row)


def _parse_digest(count: Any, digest: Any) -> tuple[int, int]:
    """Parse a stored digest; an invalid one becomes a value that no digest has."""
    try:
        value = int(digest, 16) if len(digest) == 64 else -1
    except (TypeError, ValueError):
        value = -1
    return (count, value) if isinstance(count, int) else (-1, value)


def _write_digest(connection: sqlite3.Connection, part: str, value: tuple[int, int]) -> None:
    connection.execute(
        "INSERT INTO digests VALUES (?, ?, ?) ON CONFLICT (part) DO UPDATE SET rows = excluded.rows, "
        "digest = excluded.digest",
        (part, value[0], f"{value[1] % _MODULUS:064x}"),
    )


def _hash_digests(known: dict[str, tuple[int, int]]) -> tuple[int, int]:
    others = [_hash_digest(part, value) for part, value in known.items() if part != ALL_DIGESTS_PART]
    return len(others), sum(others) % _MODULUS


def _hash_digest(part: str, value: tuple[int, int]) -> int:
    return hash_rows(ALL_DIGESTS_PART, ("part", "rows", "digest"), [(part, *value)])[1]


def _list_cell_keys(connection: sqlite3.Connection) -> list[str]:
    """Return the keys of cells that have any row, as far as they are readable."""
    keys: dict[str, None] = {}
    for column, table in (("key", "cells NOT INDEXED"), *(("cell", name) for name in CELL_TABLES)):
        try:
            rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}")  # noqa: S608
            keys |= dict.fromkeys(str(row[0]) for row in rows)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if is_transient_error(error):
                raise
    return list(keys)


def _has_digests(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'digests'").fetchone())
