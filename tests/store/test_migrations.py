"""Schemas change, runs stay: older files are brought up to date, newer ones are refused (F83)."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from store_samples import IDENTITY, KEY, RESOLVED, make_cell, make_outcome, make_view_predictions

from robustbench_local.errors import ConfigError
from robustbench_local.store import RunStore, SurfaceRecord, migrations
from robustbench_local.store import record_rows as rows
from robustbench_local.store.digests import find_damaged_parts
from robustbench_local.store.migrations import (
    MIGRATIONS,
    is_current_schema,
    migrate_database,
    read_schema_version,
)


@pytest.fixture
def memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def m999_for_tests(connection: sqlite3.Connection) -> None:
    """Every event gets a counter."""
    connection.execute("ALTER TABLE events ADD COLUMN times INTEGER NOT NULL DEFAULT 1")


def test_columns_are_the_fields_of_the_records(memory: sqlite3.Connection) -> None:
    """A field added to a record without a migration fails here."""
    migrate_database(memory)
    for table, expected in (
        ("cells", rows.CELL_COLUMNS),
        ("outcomes", rows.OUTCOME_COLUMNS),
        ("events", ("number", *rows.EVENT_COLUMNS)),
        ("sightings", rows.SIGHTING_COLUMNS),
        ("views", rows.VIEW_COLUMNS),
    ):
        columns = [row[1] for row in memory.execute(f"PRAGMA table_info({table})")]
        assert tuple(columns) == expected


def test_names_number_the_steps() -> None:
    assert [step.__name__[:5] for step in MIGRATIONS] == [f"m{k + 1:03d}_" for k in range(len(MIGRATIONS))]


def test_each_step_is_taken_once(memory: sqlite3.Connection) -> None:
    assert read_schema_version(memory) == 0
    assert not is_current_schema(memory, Path("run.db"))
    migrate_database(memory)
    assert read_schema_version(memory) == len(MIGRATIONS)
    migrate_database(memory)
    assert is_current_schema(memory, Path("run.db"))
    migrate_database(memory, (*MIGRATIONS, m999_for_tests))
    assert read_schema_version(memory) == len(MIGRATIONS) + 1


def test_a_step_that_fails_leaves_the_schema_before_it(memory: sqlite3.Connection) -> None:
    def killed(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE outcomes")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate_database(memory, (*MIGRATIONS, killed))
    assert read_schema_version(memory) == len(MIGRATIONS)
    assert memory.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)


def make_run(directory: Path) -> None:
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.put_cell(make_cell())
        store.add_outcomes(KEY, [make_outcome(0)])


def test_an_older_run_is_migrated_and_keeps_its_outcomes(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(directory)
    steps = (*MIGRATIONS, m999_for_tests)
    monkeypatch.setattr("robustbench_local.store.migrations.migrate_database.__defaults__", (steps,))
    monkeypatch.setattr("robustbench_local.store.migrations.is_current_schema.__defaults__", (steps,))
    before = (directory / "run.db").read_bytes()
    with RunStore.open_readonly(directory) as reader:
        assert reader.read_outcomes(KEY) == [make_outcome(0)]
        assert read_schema_version(reader._connection) == len(steps)
    assert (directory / "run.db").read_bytes() == before, "a reader changes nothing"
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        assert store.resumed
        assert store.read_outcomes(KEY) == [make_outcome(0)]
        assert read_schema_version(store._connection) == len(steps)


def test_a_newer_run_is_refused_and_left_alone(directory: Path) -> None:
    make_run(directory)
    raw = sqlite3.connect(directory / "run.db")
    raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    before = (directory / "run.db").read_bytes()
    newer, known = len(MIGRATIONS) + 1, len(MIGRATIONS)
    with pytest.raises(
        ConfigError, match=rf"run\.db: .*newer robustbench_local \(schema {newer};.* up to {known}\)"
    ) as caught:
        RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="Update robustbench_local"):
        RunStore.open_readonly(directory)
    assert (directory / "run.db").read_bytes() == before
    assert not (directory / "run.lock").exists()


def restore(directory: Path, dump: str) -> None:
    """A run of an older schema, from the dump of a file that a release wrote."""
    directory.mkdir()
    raw = sqlite3.connect(directory / "run.db", isolation_level=None)
    raw.executescript((Path(__file__).with_name(dump)).read_text(encoding="utf-8"))
    raw.close()


def test_a_run_of_the_second_schema_has_no_certificates(directory: Path) -> None:
    """Nobody sought a proof in it; its attacks and verdicts are what they were."""
    restore(directory, "schema_2.sql")
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity={"data.seed": "0"}) as store:
        (known,) = store.read_cells()
        (row,) = store.read_outcomes(known.key)
        assert (known.knowledge, known.measure) == ("scores", "distance")
        assert (known.concerns, known.alpha) == ("model", 0.0)
        assert (row.certified, row.radius, row.abstained) == (None, None, False)
        assert (row.broken, row.adversarial_hash) == (True, "00000000000000ff")
        proven = replace(row, position=1, certified=True, radius=0.25, broken=False)
        store.add_outcomes(known.key, [proven])
        assert store.read_outcomes(known.key) == [row, proven]


def test_a_run_of_the_third_schema_has_no_views(directory: Path) -> None:
    """Nobody looked at its images from anywhere; resumed, it can hold looks like any other."""
    restore(directory, "schema_3.sql")
    with RunStore.open_readonly(directory) as reader:
        (known,) = reader.read_cells()
        assert (known.measure, known.concerns, known.alpha) == ("certificate", "smoothed", 0.001)
        assert (reader.read_view_predictions(known.key), reader.read_views(known.key)) == ([], [])
        assert reader.read_outcomes(known.key)[0].radius == 0.5
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity={"data.seed": "0"}) as store:
        look = make_view_predictions(0, cell=known.key)
        store.add_outcomes(known.key, [], [look])
        assert store.read_view_predictions(known.key) == [look]


def test_a_run_of_the_fourth_schema_does_not_know_its_surface(directory: Path) -> None:
    """Its looks are what they were; described anew, as a resumed run is, it says what its stickers are on."""
    restore(directory, "schema_4.sql")
    with RunStore.open_readonly(directory) as reader:
        (known,) = reader.read_cells()
        assert (known.measure, known.surface) == ("views", None)
        assert reader.read_view_predictions(known.key)[0].predictions == (1, None)
        assert reader.read_views(known.key)[0].distance == (16.0, 64.0)
    surface = SurfaceRecord(what="the mask 'rect'", pixels=30.0, covered=3.0, image_pixels=1024)
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity={"data.seed": "0"}) as store:
        store.put_cell(replace(known, surface=surface))
        (described,) = store.read_cells()
        assert (described.surface, described.status) == (surface, "done")


def test_a_run_of_the_first_schema_made_by_hand(directory: Path) -> None:
    """The first schema as it was released: the file of an old run, not one that today's code made."""
    restore(directory, "schema_1.sql")
    with RunStore.open_readonly(directory) as reader:
        (known,) = reader.read_cells()
        (row,) = reader.read_outcomes(known.key)
        assert (known.attack, known.targets, known.eps, known.status) == (
            "pgd50-linf-8",
            (0, 1),
            0.03,
            "done",
        )
        assert known.parameters == {"steps": 50}
        assert (known.knowledge, known.surrogate, known.measure) == ("white-box", None, "ball")
        assert (row.image, row.margin, row.broken, row.broken_8bit) == ("stop/1.png", -0.5, True, None)
        assert reader.read_identity() == {"data.seed": "0"}
        assert reader.read_meta("seed") == 0
        assert reader.read_events()[0].message == "resumed"
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity={"data.seed": "0"}) as store:
        assert store.read_cells() == [known], "resumed for writing, it is the same cell"
        assert read_schema_version(store._connection) == len(MIGRATIONS)


@pytest.mark.parametrize("dump", ["schema_1.sql", "schema_4.sql"])
def test_an_older_run_says_that_nobody_checked_its_rows(directory: Path, dump: str) -> None:
    """Read in place or resumed, it gets digests of what it holds, and remembers that they are younger."""
    restore(directory, dump)
    with RunStore.open_readonly(directory) as reader:
        assert not reader.is_fully_checked
    for _ in range(2):
        with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity={"data.seed": "0"}) as store:
            assert not store.is_fully_checked
            assert find_damaged_parts(store._connection) == []


def test_a_new_run_is_checked_from_the_start(directory: Path) -> None:
    make_run(directory)
    with RunStore.open_readonly(directory) as reader:
        assert reader.is_fully_checked


def test_a_step_does_not_make_damage_look_whole(directory: Path, memory: sqlite3.Connection) -> None:
    """Columns that a step adds are covered by digests written anew, but not of what was damaged before it."""
    make_run(directory)
    raw = sqlite3.connect(directory / "run.db", isolation_level=None)
    raw.execute("UPDATE outcomes SET margin = 0.5")
    migrate_database(raw, (*MIGRATIONS, m999_for_tests))
    assert find_damaged_parts(raw) == [f"cell:{KEY}"]
    raw.close()


def test_the_version_names_today() -> None:
    assert migrations.APPLICATION_ID.to_bytes(4, "big") == b"RBL1"
