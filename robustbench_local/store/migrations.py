"""The schema of ``run.db`` as a sequence of migrations. Append only: a released migration never changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from robustbench_local.errors import ConfigError
from robustbench_local.store import digests

UNCHECKED_KEY = "written before rows were checked"
"""Metadata key of runs whose first rows are older than digests, so that earlier damage is undetected."""
APPLICATION_ID = 0x52424C31
"""``RBL1``: marks the file as this program's, so that no other program's run.db is written to."""


def m001_cells_outcomes_events(connection: sqlite3.Connection) -> None:
    """Create the first schema."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("CREATE TABLE identity (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute(
        """
        CREATE TABLE cells (
            key TEXT PRIMARY KEY,
            position INTEGER NOT NULL,
            model TEXT NOT NULL,
            defense TEXT NOT NULL,
            attack TEXT NOT NULL,
            card TEXT NOT NULL,
            norm TEXT NOT NULL,
            eps REAL NOT NULL,
            threat TEXT NOT NULL,
            goal TEXT NOT NULL,
            targets TEXT NOT NULL,
            sources TEXT NOT NULL,
            images INTEGER NOT NULL,
            excluded INTEGER NOT NULL,
            parameters TEXT NOT NULL,
            identity TEXT NOT NULL,
            note TEXT NOT NULL,
            status TEXT NOT NULL,
            error TEXT
        )
        """
    )
    connection.execute(
        """
        CREATE TABLE outcomes (
            cell TEXT NOT NULL REFERENCES cells (key),
            position INTEGER NOT NULL CHECK (position >= 0),
            image TEXT NOT NULL,
            label INTEGER NOT NULL,
            clean_prediction INTEGER,
            adversarial_prediction INTEGER,
            clean_correct INTEGER NOT NULL,
            broken INTEGER NOT NULL,
            moved_elsewhere INTEGER NOT NULL,
            margin REAL,
            fragile INTEGER NOT NULL,
            linf REAL,
            l2 REAL,
            l1 REAL,
            broken_8bit INTEGER,
            forward_passes INTEGER NOT NULL,
            backward_passes INTEGER NOT NULL,
            seconds REAL NOT NULL,
            status TEXT NOT NULL,
            error TEXT,
            original_hash TEXT NOT NULL,
            adversarial_hash TEXT NOT NULL,
            PRIMARY KEY (cell, position)
        ) WITHOUT ROWID
        """
    )
    connection.execute(
        """
        CREATE TABLE events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            time TEXT NOT NULL,
            level TEXT NOT NULL,
            message TEXT NOT NULL,
            cell TEXT
        )
        """
    )


def m002_knowledge_and_measure(connection: sqlite3.Connection) -> None:
    """Add knowledge and measure to cells; older runs are white-box with any candidate in the ball."""
    for column in (
        "knowledge TEXT NOT NULL DEFAULT 'white-box'",
        "surrogate TEXT",
        "measure TEXT NOT NULL DEFAULT 'ball'",
    ):
        connection.execute(f"ALTER TABLE cells ADD COLUMN {column}")


def m003_certificates(connection: sqlite3.Connection) -> None:
    """Add certificates; older runs have none."""
    for table, column in (
        ("cells", "concerns TEXT NOT NULL DEFAULT 'model'"),
        ("cells", "alpha REAL NOT NULL DEFAULT 0"),
        ("outcomes", "certified INTEGER"),
        ("outcomes", "radius REAL"),
        ("outcomes", "abstained INTEGER NOT NULL DEFAULT 0"),
    ):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def m004_views(connection: sqlite3.Connection) -> None:
    """Add predictions in many views of a sign, as JSON lists, which take a tenth of the space of rows."""
    connection.execute(
        """
        CREATE TABLE sightings (
            cell TEXT NOT NULL REFERENCES cells (key),
            position INTEGER NOT NULL CHECK (position >= 0),
            condition TEXT NOT NULL,
            kind TEXT NOT NULL,
            predictions TEXT NOT NULL,
            confidences TEXT NOT NULL,
            PRIMARY KEY (cell, position, condition, kind)
        ) WITHOUT ROWID
        """
    )
    connection.execute(
        """
        CREATE TABLE views (
            cell TEXT NOT NULL REFERENCES cells (key),
            position INTEGER NOT NULL CHECK (position >= 0),
            kind TEXT NOT NULL,
            distance TEXT NOT NULL,
            yaw TEXT NOT NULL,
            pitch TEXT NOT NULL,
            roll TEXT NOT NULL,
            PRIMARY KEY (cell, position, kind)
        ) WITHOUT ROWID
        """
    )


def m005_surface(connection: sqlite3.Connection) -> None:
    """Add the surface of a sticker and its size, in JSON; unknown for older runs."""
    connection.execute("ALTER TABLE cells ADD COLUMN surface TEXT")


def m006_stages(connection: sqlite3.Connection) -> None:
    """Add the stage of an ensemble that succeeded; unknown for older runs."""
    connection.execute("ALTER TABLE outcomes ADD COLUMN stage TEXT NOT NULL DEFAULT ''")


def m007_digests(connection: sqlite3.Connection) -> None:
    """Add digests of the rows of each cell and of the files of its arrays; see ``digests``.

    Older runs get digests of their current content, and a mark that earlier damage is undetected.
    """
    connection.execute(
        """
        CREATE TABLE arrays (
            cell TEXT NOT NULL REFERENCES cells (key),
            chunk INTEGER NOT NULL CHECK (chunk >= 0),
            digest TEXT NOT NULL,
            PRIMARY KEY (cell, chunk)
        ) WITHOUT ROWID
        """
    )
    connection.execute(
        """
        CREATE TABLE digests (
            part TEXT PRIMARY KEY,
            rows INTEGER NOT NULL,
            digest TEXT NOT NULL
        ) WITHOUT ROWID
        """
    )
    if connection.execute("SELECT count(*) FROM cells").fetchone()[0]:
        connection.execute("INSERT INTO meta VALUES (?, 'true')", (UNCHECKED_KEY,))


def m008_gradients(connection: sqlite3.Connection) -> None:
    """Add counts of gradient problems; zero for older runs."""
    for column in (
        "gradient_steps",
        "nonfinite_gradient_entries",
        "nonfinite_gradient_steps",
        "zero_gradient_steps",
        "unconfirmed_gradient_steps",
    ):
        connection.execute(f"ALTER TABLE outcomes ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")


def m009_changed_pixels(connection: sqlite3.Connection) -> None:
    """Add the number of changed pixels; unknown for older runs."""
    connection.execute("ALTER TABLE outcomes ADD COLUMN l0 REAL")


def m010_draws(connection: sqlite3.Connection) -> None:
    """Add the draws of models with random answers; none for older runs."""
    for column in (
        "draws INTEGER NOT NULL DEFAULT 0",
        "successful_draws INTEGER NOT NULL DEFAULT 0",
        "broken_fixed_draw INTEGER",
    ):
        connection.execute(f"ALTER TABLE outcomes ADD COLUMN {column}")


def m011_twins(connection: sqlite3.Connection) -> None:
    """Add what the float twin of a shipped model answers; older runs have no twins."""
    connection.execute("ALTER TABLE cells ADD COLUMN twin TEXT")
    for column in (
        "twin_clean_prediction INTEGER",
        "twin_clean_correct INTEGER",
        "twin_prediction INTEGER",
        "twin_broken INTEGER",
        "clean_difference REAL",
        "adversarial_difference REAL",
        "twin_forward_passes INTEGER NOT NULL DEFAULT 0",
        "twin_backward_passes INTEGER NOT NULL DEFAULT 0",
        "search_phase TEXT NOT NULL DEFAULT ''",
    ):
        connection.execute(f"ALTER TABLE outcomes ADD COLUMN {column}")


Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: tuple[Migration, ...] = (
    m001_cells_outcomes_events,
    m002_knowledge_and_measure,
    m003_certificates,
    m004_views,
    m005_surface,
    m006_stages,
    m007_digests,
    m008_gradients,
    m009_changed_pixels,
    m010_draws,
    m011_twins,
)


def read_schema_version(connection: sqlite3.Connection) -> int:
    """Return the number of migrations applied to the database; 0 for an empty one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_current_schema(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS
) -> bool:
    """Return True if the database has the current schema, False if it needs migrations.

    Args:
        connection: The database, without an open transaction.
        path: The file, for messages.
        migrations: The migrations, oldest first.

    Raises:
        ConfigError: It has a newer schema, or is not a database of this program.
    """
    version = read_schema_version(connection)
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application != APPLICATION_ID and (application or version or tables):
        raise ConfigError(
            "the database belongs to another program", where=str(path), remedy="choose another folder"
        )
    if version > len(migrations):
        raise ConfigError(
            f"this run was written by a newer robustbench_local (schema {version}; this one knows up to "
            f"{len(migrations)})",
            where=str(path),
            remedy="update robustbench_local",
        )
    return version == len(migrations)


def migrate_database(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Migrate to the current schema, one transaction per migration, so that a kill loses nothing.

    A migration may add columns. So digests are rewritten, except those of parts that were damaged before.

    Args:
        connection: The database, writable, without an open transaction and accepted by ``is_current_schema``.
        migrations: The migrations, oldest first.
    """
    for step in range(read_schema_version(connection), len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            damaged = digests.find_damaged_parts(connection)
            migrations[step](connection)
            digests.write_digests(connection, excluded_parts=damaged)
            connection.execute(f"PRAGMA user_version = {step + 1}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
