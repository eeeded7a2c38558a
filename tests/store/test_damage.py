"""Damage of any kind is noticed, or changes nothing that a reader gets (no wrong number in silence)."""

from __future__ import annotations

import errno
import itertools
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from store_samples import (
    CHUNK_IMAGES,
    IDENTITY,
    KEY,
    OTHER_KEY,
    RESOLVED,
    make_arrays,
    make_cell,
    make_outcome,
    make_view,
    make_view_predictions,
    write_run,
)

from robustbench_local.config import user_files
from robustbench_local.errors import DamagedError, IncompleteError, RobustbenchError
from robustbench_local.store import EventRecord, RunStore
from robustbench_local.store.cross_checks import NORMS, find_contradictions
from robustbench_local.store.damage import RECOMPUTE_COMMAND, find_damage
from robustbench_local.store.digests import write_digests
from robustbench_local.store.rebuild import DAMAGED_COPY_NAME
from robustbench_local.threats.threat_model import Norm

TABLES = ("identity", "meta", "cells", "outcomes", "events", "sightings", "views", "arrays", "digests")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("damage") / "run"
    write_run(directory, 4)
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.update_meta(
            {"environment": {"device": "cpu"}, "gates": [{"metric": "robust_accuracy", "min": 0.5}]}
        )
        store.add_event(
            EventRecord(time="2026-11-22T10:00:00+00:00", level="info", message="begun", cell=KEY)
        )
        for key in (KEY, OTHER_KEY):
            store.add_outcomes(key, [], [make_view_predictions(0, key)], [make_view(0, key)])
    return directory


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def contents(directory: Path) -> dict[str, object]:
    with RunStore.open_readonly(directory) as reader:
        cells = reader.read_cells()
        return {
            "cells": cells,
            "rows": [
                (reader.read_outcomes(c.key), reader.read_view_predictions(c.key), reader.read_views(c.key))
                for c in cells
            ],
            "arrays": [{k: v.tolist() for k, v in reader.load_arrays(c.key).items()} for c in cells],
            "events": reader.read_events(),
            "meta": [reader.read_meta(name) for name in ("seed", "environment", "gates", "absent")],
            "identity": reader.read_identity(),
        }


def is_noticed(directory: Path, expected: dict[str, object]) -> bool:
    """Whether opening or reading says so in one line with exit code 2; if not, what is read must be right."""
    try:
        found = contents(directory)
    except RobustbenchError as error:
        line, code = str(error), error.exit_code
    else:
        line, code = "", 0
    if code:
        assert code == 2, line
        assert "\n" not in line
        assert "free some space" not in line
        return True
    assert found == expected, "damage that nobody noticed"
    return False


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_the_file(whole: Path, run: Path, seed: int) -> None:
    expected, database = contents(whole), run / "run.db"
    original, rng = database.read_bytes(), random.Random(seed)
    noticed = 0
    for _ in range(40):
        content = bytearray(original)
        for _ in range(rng.choice((1, 1, 1, 8))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        database.write_bytes(content)
        noticed += is_noticed(run, expected)
    assert noticed > 8, "much of the file is rows"


def test_flipped_bits_where_rows_are(whole: Path, run: Path) -> None:
    """Aimed at the bytes around an image's name, where the fields of 0 and 1 are."""
    expected, database = contents(whole), run / "run.db"
    original, rng = database.read_bytes(), random.Random(11)
    places = [at for at in range(len(original)) if original.startswith(b"stop/", at)]
    assert len(places) >= 40
    noticed = 0
    for at in rng.sample(places, 40):
        content = bytearray(original)
        content[at + rng.randrange(20, 60)] ^= 1 << rng.randrange(8)
        database.write_bytes(content)
        noticed += is_noticed(run, expected)
    assert noticed > 30


@pytest.mark.parametrize("size", [0, 100, 512, 4096, 9000])
def test_a_truncated_or_overwritten_file(whole: Path, run: Path, size: int) -> None:
    content = (whole / "run.db").read_bytes()
    (run / "run.db").write_bytes(content[:size])
    with pytest.raises(RobustbenchError) as caught:
        contents(run)
    assert caught.value.exit_code == 2
    (run / "run.db").write_bytes(content[:size] + b"\0" * (len(content) - size))
    with pytest.raises(RobustbenchError) as caught:
        contents(run)
    assert caught.value.exit_code == 2


def edits(directory: Path) -> Iterator[str]:
    """Every field of every first and last row changed, every row deleted, rows added and exchanged."""
    with closing(sqlite3.connect(directory / "run.db")) as raw:
        for table in TABLES:
            columns = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            key = "rowid" if table in {"identity", "meta", "cells", "events"} else None
            where = f"WHERE {key} = (SELECT max({key}) FROM {table})" if key else "WHERE 1"
            for column in columns:
                for value in (f"1 - {column}", f"{column} || 'x'", "NULL", "0", "1", "'1'", "2.5"):
                    yield f"UPDATE OR IGNORE {table} SET {column} = {value} {where}"
            yield f"DELETE FROM {table} {where}"
            yield f"DELETE FROM {table}"
        yield "DELETE FROM outcomes WHERE position = 3"
        yield f"DELETE FROM outcomes WHERE cell = '{KEY}'"
        yield f"DELETE FROM digests WHERE part = 'cell:{KEY}'"
        yield "UPDATE outcomes SET position = position + 100 WHERE position > 17"
        yield "INSERT INTO meta VALUES ('absent', '1')"
        yield "UPDATE meta SET value = 'null' WHERE key = 'gates'"
        yield f"UPDATE outcomes SET cell = '{'0' * 64}' WHERE position = 1"
        yield "UPDATE outcomes SET image = 'another' WHERE position = 2"
        yield "UPDATE outcomes SET broken = 1, clean_correct = 1 WHERE position = 1"
        yield "UPDATE events SET message = 'nothing'"
        yield f"UPDATE cells SET status = 'pending' WHERE key = '{KEY}'"


def read_tables(raw: sqlite3.Connection) -> str:
    """All rows of all tables; 1, 1.0 and '1' differ."""
    return repr([raw.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES])


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow, id="all"), 4])
def test_edited_rows(whole: Path, run: Path, stride: int) -> None:
    """The count of edits that nobody notices is 0: what changes a row is an error, whatever it changes."""
    database, tried, unnoticed = run / "run.db", 0, []
    with closing(sqlite3.connect(whole / "run.db")) as raw:
        before = read_tables(raw)
    for statement in itertools.islice(edits(whole), 0, None, stride):
        shutil.copyfile(whole / "run.db", database)
        with closing(sqlite3.connect(database, isolation_level=None)) as raw:
            raw.execute("PRAGMA synchronous = OFF")
            try:
                raw.execute(statement)
            except sqlite3.Error:
                continue  # the schema itself refuses it
            if read_tables(raw) == before:
                continue
        tried += 1
        try:
            RunStore.open_readonly(run).close()
        except DamagedError as error:
            unnoticed += [] if RECOMPUTE_COMMAND in str(error) else [statement]
        else:
            unnoticed.append(statement)
    assert unnoticed == []
    assert tried > 150 / stride


def test_a_cell_deleted_with_all_that_is_about_it(run: Path) -> None:
    with closing(sqlite3.connect(run / "run.db", isolation_level=None)) as raw:
        for table in ("outcomes", "sightings", "views", "arrays"):
            raw.execute(f"DELETE FROM {table} WHERE cell = ?", (KEY,))
        raw.execute("DELETE FROM cells WHERE key = ?", (KEY,))
        raw.execute("DELETE FROM digests WHERE part = ?", (f"cell:{KEY}",))
    with pytest.raises(DamagedError, match="the list of digests"):
        RunStore.open_readonly(run)


SWAPPED = (
    "UPDATE sqlite_master SET sql = replace(replace(replace("
    "sql, 'linf REAL', 'x REAL'), 'l2 REAL', 'linf REAL'), 'x REAL', 'l2 REAL') WHERE name = 'outcomes'"
)


@pytest.mark.parametrize(
    "statement",
    [
        SWAPPED,
        "UPDATE sqlite_master SET sql = replace(sql, 'broken INT', 'brokeo INT') WHERE name = 'outcomes'",
        "UPDATE sqlite_master SET sql = replace(sql, 'TABLE', 'TABEL') WHERE name = 'outcomes'",
        "DELETE FROM sqlite_master WHERE name = 'views'",
    ],
)
def test_a_damaged_schema_is_not_a_full_disk(run: Path, statement: str) -> None:
    with closing(sqlite3.connect(run / "run.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute(statement)
    for opened in (RunStore.open_readonly, resume):
        with pytest.raises(DamagedError) as caught:
            opened(run)
        assert caught.value.exit_code == 2
        assert "free some space" not in str(caught.value)


def test_digests_that_are_lost_are_damage_and_not_an_older_run(run: Path) -> None:
    edit(run, "DROP TABLE digests")
    for opened in (RunStore.open_readonly, resume):
        with pytest.raises(DamagedError, match="digests"):
            opened(run)
    with pytest.raises(DamagedError, match="Nothing in it is usable"):
        RunStore.create_or_open(run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True)


@pytest.mark.parametrize("old", [b"CREATE TABLE outcomes", b"CREATE TABLE meta", b"broken"])
def test_a_schema_that_is_no_text_any_more(run: Path, old: bytes) -> None:
    """SQLite quotes in its message what it cannot parse, and Python cannot read that either."""
    content = (run / "run.db").read_bytes()
    for place in range(0, len(old), 3):
        new = old[:place] + b"\xc5" + old[place + 1 :]
        (run / "run.db").write_bytes(content.replace(old, new, 1))
        for opened in (RunStore.open_readonly, resume):
            with pytest.raises(DamagedError):
                opened(run)


def resume(run: Path) -> None:
    RunStore.create_or_open(run, resolved_yaml=RESOLVED, identity=IDENTITY).close()


def edit(run: Path, *statements: str) -> None:
    with closing(sqlite3.connect(run / "run.db", isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)


def test_a_reader_that_is_open_notices_too(run: Path) -> None:
    with RunStore.open_readonly(run) as reader:
        assert len(reader.read_outcomes(KEY)) == 20
        edit(run, "UPDATE outcomes SET broken = 1 - broken WHERE position = 4")
        with pytest.raises(DamagedError, match=r"cell signs-plain x pgd50-linf-8 \(0a1b0a1b0a1b\)"):
            reader.read_outcomes(KEY)


def test_a_damaged_run_is_not_resumed_unless_it_is_computed_again(run: Path) -> None:
    edit(run, f"UPDATE outcomes SET broken = 1 - broken WHERE position = 4 AND cell = '{KEY}'")
    before = (run / "run.db").read_bytes()
    with pytest.raises(DamagedError, match="recompute-damaged"):
        resume(run)
    assert (run / "run.db").read_bytes() == before
    options = {"resolved_yaml": RESOLVED, "identity": IDENTITY, "recompute_damaged": True}
    with RunStore.create_or_open(run, **options) as store:
        assert store.resumed
        assert [known.key for known in store.read_cells()] == [OTHER_KEY]
        assert (store.read_outcomes(KEY), store.load_arrays(KEY)) == ([], {})
        assert len(store.read_outcomes(OTHER_KEY)) == 20
        assert len(store.load_arrays(OTHER_KEY)["positions"]) == 20
        assert store.read_meta("gates") == [{"metric": "robust_accuracy", "min": 0.5}]
        assert "dropped, to be recomputed: cell signs-plain x pgd50-linf-8" in store.read_events()[-1].message
    assert (run / DAMAGED_COPY_NAME).read_bytes() == before, "the damaged database is kept"
    write_run(run, 4)
    with RunStore.open_readonly(run) as reader:
        rows = reader.read_outcomes(KEY)
        assert rows == [make_outcome(position) for position in range(4 * CHUNK_IMAGES)]


def _raise_memory_error(*_):
    raise MemoryError


def _raise_too_many_files(*_):
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("name", "failure"),
    [("_read_at_most", _raise_memory_error), ("_check_file_status", _raise_too_many_files)],
)
def test_a_machine_that_is_short_of_something_damages_nothing(run: Path, monkeypatch, name, failure) -> None:
    """The images are whole, although they cannot be read now: none is dropped, and none is called damaged."""
    expected = contents(run)
    with monkeypatch.context() as short:
        short.setattr(user_files, name, failure)
        with pytest.raises(IncompleteError, match=r"cannot be read|not enough memory"):
            RunStore.create_or_open(run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True)
        with pytest.raises(IncompleteError), RunStore.open_readonly(run) as store:
            store.find_damaged_arrays()
    assert contents(run) == expected


def test_a_whole_run_is_left_as_it_is_when_damage_is_to_be_computed_again(run: Path) -> None:
    expected = contents(run)
    RunStore.create_or_open(run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True).close()
    assert contents(run) == expected
    assert not (run / DAMAGED_COPY_NAME).exists()


@pytest.mark.parametrize("table", ["meta", "events", "digests"])
def test_what_a_run_knows_of_itself_is_dropped_and_its_cells_are_kept(run: Path, table: str) -> None:
    edit(
        run,
        f"DELETE FROM {table}"
        if table != "digests"
        else "UPDATE digests SET rows = 7 WHERE part = 'digests'",
    )
    with RunStore.create_or_open(
        run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True
    ) as store:
        assert [len(store.read_outcomes(known.key)) for known in store.read_cells()] == [20, 20]
    contents(run)


def test_a_run_that_does_not_know_whose_it_is_is_not_rebuilt(run: Path) -> None:
    edit(run, "UPDATE identity SET value = '1' WHERE key = 'data.seed'")
    with pytest.raises(DamagedError, match="Nothing in it is usable"):
        RunStore.create_or_open(run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True)


def test_pages_that_are_lost_cost_the_cells_on_them_alone(run: Path) -> None:
    """A page of rows is overwritten: the cells that are not on it are read and kept."""
    database = run / "run.db"
    content = bytearray(database.read_bytes())
    at = content.rfind(b"stop/")
    page = at - at % 4096
    content[page : page + 4096] = b"\xa5" * 4096
    database.write_bytes(content)
    with pytest.raises(DamagedError):
        RunStore.open_readonly(run)
    with RunStore.create_or_open(
        run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True
    ) as store:
        assert store.read_identity() == IDENTITY
    contents(run)


def test_a_file_that_is_no_database_says_so(run: Path) -> None:
    (run / "run.db").write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(DamagedError, match="not a readable database"):
        RunStore.open_readonly(run)
    with pytest.raises(DamagedError, match="not a readable database"):
        RunStore.create_or_open(run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True)


def test_a_commit_does_not_cost_more_in_a_large_cell(store: RunStore) -> None:
    """The digest is carried on by the rows of the commit: nothing else of the cell is read."""

    def steps(first: int) -> int:
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        store._connection.set_progress_handler(tick, 100)
        store.add_outcomes(KEY, [make_outcome(position) for position in range(first, first + CHUNK_IMAGES)])
        store._connection.set_progress_handler(None, 0)
        return count

    small = steps(0)
    store.add_outcomes(KEY, [make_outcome(position) for position in range(10, 190)])
    assert steps(190) <= small + 10


def forged(run: Path, statement: str) -> list[str]:
    """What is said of a row that was changed by somebody who computes the digests anew."""
    with closing(sqlite3.connect(run / "run.db", isolation_level=None)) as raw:
        raw.execute(statement)
        raw.execute("BEGIN")
        write_digests(raw)
        raw.execute("COMMIT")
        return [damage.description for damage in find_damage(raw)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "broken = 0, broken_8bit = NULL WHERE position = 3",
            "it is not broken, but its last prediction is a target",
        ),
        ("broken = 1 WHERE position = 2", "it is broken, but its last prediction is not a target"),
        ("clean_correct = 0 WHERE position = 2", "it was attacked without being clean-correct"),
        ("clean_correct = 0 WHERE position = 3", "it is broken without being clean-correct"),
        ("clean_prediction = 1 WHERE position = 2", "it is clean-correct with a wrong prediction"),
        ("clean_prediction = 1.5 WHERE position = 2", "a prediction is not a class index"),
        ("label = -1 WHERE position = 2", "a count is not an integer"),
        ("label = 'stop' WHERE position = 2", "a count is not an integer"),
        ("broken = 2 WHERE position = 3", "a flag is neither 0 nor 1"),
        ("broken = 'yes' WHERE position = 3", "a flag is neither 0 nor 1"),
        ("broken_8bit = 1 WHERE position = 2", "it is broken only in 8 bits"),
        ("margin = 9e999 WHERE position = 2", "its margin is not a finite number"),
        ("margin = 'nan' WHERE position = 2", "its margin is not a finite number"),
        ("linf = 0.04 WHERE position = 3", "it is broken from outside the ball"),
        ("linf = -0.01 WHERE position = 3", "a distance is not a finite number of at least 0"),
        ("status = 'fine' WHERE position = 3", "its status is unknown"),
        ("status = 'clean-wrong' WHERE position = 2", "it is both clean-correct and clean-wrong"),
        ("status = 'error' WHERE position = 3", "it is broken without a verdict"),
        ("moved_elsewhere = 1 WHERE position = 3", "it is both broken and moved elsewhere"),
        ("certified = 1 WHERE position = 3", "it is certified but not correct"),
        ("certified = 0 WHERE position = 2", "an attacked image has a failed certificate"),
        ("abstained = 1 WHERE position = 2", "its last answer is no rejection"),
        ("draws = 3, successful_draws = 4 WHERE position = 2", "more draws are successful than there are"),
        ("position = 5000 WHERE position = 2", "its position is beyond the images of the cell"),
        ("image = 'stop/限速 🛑 1.png' WHERE position = 2", "an image occurs in it twice"),
    ],
)
def test_fields_that_contradict_each_other(run: Path, change: str, said: str) -> None:
    assert any(said in line for line in forged(run, f"UPDATE outcomes SET {change}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("status = 'finished'", "its status is unknown"),
        ("measure = 'guess'", "its measure is unknown"),
        ("norm = '../../Linf'", "its norm is unknown"),
        ("goal = 'any'", "its goal is unknown"),
        ("eps = 'eight'", "its eps is not a radius"),
        ("alpha = 2.0", "its alpha is not a probability"),
        ("images = 5", "it has more outcomes than images"),
        ("parameters = '{'", "a list is not valid JSON"),
    ],
)
def test_fields_of_a_cell_that_make_no_sense(run: Path, change: str, said: str) -> None:
    assert any(said in line for line in forged(run, f"UPDATE cells SET {change}"))


@pytest.mark.parametrize(("pixels", "is_damage"), [("2.0", False), ("3.0", True), ("NULL", True)])
def test_the_number_of_changed_pixels_has_no_slack(run: Path, pixels: str, is_damage: bool) -> None:
    forged(run, f"UPDATE outcomes SET l0 = {pixels}")
    said = forged(run, "UPDATE cells SET norm = 'L0', eps = 2.0")
    assert any("it is broken from outside the ball" in line for line in said) == is_damage


def test_the_norms_are_those_of_threat_models() -> None:
    assert set(get_args(Norm)) == set(NORMS)


@pytest.mark.parametrize("beyond", [False, True])
def test_a_distance_on_either_side_of_the_slack(store: RunStore, beyond: bool) -> None:
    """The harness allows a millionth in Linf; what is stored may exceed eps by little more."""
    eps = 8 / 255
    store.add_outcomes(KEY, [make_outcome(3, linf=eps * (1 + 1e-4) + (3e-6 if beyond else 1e-6))])
    assert bool(list(find_contradictions(store._connection))) == beyond


@pytest.mark.parametrize("beyond", [False, True])
def test_a_radius_on_either_side_of_its_eps(store: RunStore, beyond: bool) -> None:
    store.put_cell(
        replace(make_cell(), measure="certificate", norm="L2", eps=0.5, goal="untargeted", targets=())
    )
    radius = 0.5 * (1 - (2e-6 if beyond else 5e-7))
    store.add_outcomes(KEY, [make_outcome(1, moved_elsewhere=False, certified=True, radius=radius)])
    assert bool(list(find_contradictions(store._connection))) == beyond


def test_classes_that_the_model_does_not_have(run: Path) -> None:
    with RunStore.create_or_open(run, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.set_meta("models", [{"id": "signs-plain", "num_classes": 43}])
        assert find_damage(store._connection) == []
        store.set_meta("models", [{"id": "signs-plain", "num_classes": 22}])
        one = find_damage(store._connection)[0]
    assert "a class is not among the 22 of the model" in one.description


def spoil(run: Path, how: str) -> None:
    first, second = (run / "adversarial" / key[:16] / "00000.safetensors" for key in (KEY, OTHER_KEY))
    content = first.read_bytes()
    if how == "exchanged":
        first.write_bytes(second.read_bytes() + b"")
        second.write_bytes(content)
    elif how == "missing":
        first.unlink()
    elif how == "truncated":
        first.write_bytes(content[:-40])
    elif how == "black":
        first.write_bytes(content[:-900] + b"\0" * 900)
    elif how == "nan":
        first.write_bytes(content[:-4] + b"\0\0\xc0\x7f")
    elif how == "folder":
        first.unlink()
        first.mkdir()


@pytest.mark.parametrize("how", ["missing", "truncated", "black", "nan", "folder"])
def test_images_that_are_not_those_that_were_found(run: Path, how: str) -> None:
    spoil(run, how)
    with RunStore.open_readonly(run) as reader:
        with pytest.raises(DamagedError, match=r"00000\.safetensors: .*(compute the cell again|is a folder)"):
            reader.load_arrays(KEY)
        assert set(reader.find_damaged_arrays()) == {KEY}
        assert len(reader.read_outcomes(KEY)) == 20, "numbers do not rest on them"
    if how != "folder":  # which nobody deletes unasked
        with RunStore.create_or_open(
            run, resolved_yaml=RESOLVED, identity=IDENTITY, recompute_damaged=True
        ) as store:
            assert [known.key for known in store.read_cells()] == [OTHER_KEY]
        write_run(run, 4)
        with RunStore.open_readonly(run) as reader:
            assert reader.find_damaged_arrays() == {}
            assert len(reader.load_arrays(KEY)["positions"]) == 20


def test_images_of_two_runs_exchanged(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with RunStore.create_or_open(other, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.put_cell(make_cell())
        store.save_arrays(KEY, 0, make_arrays(5, CHUNK_IMAGES))
        store.add_outcomes(KEY, [make_outcome(position) for position in range(5, 5 + CHUNK_IMAGES)])
    file = Path("adversarial", KEY[:16], "00000.safetensors")
    shutil.copyfile(other / file, run / file)
    with (
        RunStore.open_readonly(run) as reader,
        pytest.raises(DamagedError, match="the file has changed since it was written"),
    ):
        reader.load_arrays(KEY)


def test_images_of_a_run_without_digests_are_held_against_their_outcomes(run: Path) -> None:
    """As in runs from before digests: the outcomes' own hashes tell."""
    edit(run, "DELETE FROM arrays", "INSERT INTO meta VALUES ('written before rows were checked', 'true')")
    forged(run, "SELECT 1")
    with RunStore.open_readonly(run) as reader:
        assert not reader.is_fully_checked
        assert len(reader.load_arrays(KEY)["positions"]) == 20
    spoil(run, "black")
    with (
        RunStore.open_readonly(run) as reader,
        pytest.raises(DamagedError, match="not the one of its outcome"),
    ):
        reader.load_arrays(KEY)


def test_a_kill_between_images_and_their_outcomes_is_no_damage(directory: Path, tmp_path: Path) -> None:
    """The file is there and its digest is not, or an older file of another batch is: neither is shown."""
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.put_cell(make_cell())
        store.save_arrays(KEY, 0, make_arrays(0, 3))
        killed = shutil.copytree(directory, tmp_path / "killed")
        store.add_outcomes(KEY, [make_outcome(position) for position in range(3)])
    with RunStore.open_readonly(killed) as reader:
        assert reader.find_damaged_arrays() == {}
        assert reader.load_arrays(KEY) == {}
    (killed / "run.lock").unlink()
    with RunStore.create_or_open(killed, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.save_arrays(KEY, 0, make_arrays(0, CHUNK_IMAGES))
        store.add_outcomes(KEY, [make_outcome(position) for position in range(CHUNK_IMAGES)])
        assert len(store.load_arrays(KEY)["positions"]) == CHUNK_IMAGES
