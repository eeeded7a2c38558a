"""Outcomes by column are those by record, and a file that nobody changed is not checked twice."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace

import pytest
from store_samples import KEY, OTHER_KEY, make_cell, make_outcome

from robustbench_local.errors import DamagedError, InvariantError
from robustbench_local.store import checked_database, database, unchanged_file
from robustbench_local.store.outcome_columns import COUNTED_COLUMNS, OutcomeColumns, count_columns
from robustbench_local.store.record_rows import OUTCOME_COLUMNS
from robustbench_local.store.records import count_outcomes
from robustbench_local.store.run_store import RunStore


def make_row(position, **changes):
    """An image that was not misclassified, without contradictions."""
    calm = {"broken": False, "moved_elsewhere": False, "broken_8bit": None, "fragile": False}
    return make_outcome(position, **{**calm, "adversarial_prediction": 3 + position, **changes})


ROWS = [
    make_row(0),
    make_row(1, broken=True, adversarial_prediction=2, margin=0.5, broken_8bit=True, l2=0.0),
    make_row(2, clean_correct=False, clean_prediction=None, status="clean-wrong", abstained=True,
             adversarial_prediction=None),
    make_row(3, status="error", error="it raised", linf=math.nan, seconds=0.1),
    make_row(4, gradient_steps=4, zero_gradient_steps=1, unconfirmed_gradient_steps=1),
    make_row(5, gradient_steps=5, zero_gradient_steps=1, unconfirmed_gradient_steps=1),
    make_row(6, nonfinite_gradient_steps=2, abstained=True, fragile=True, seconds=0.2,
             adversarial_prediction=50),
    make_row(7, status="rejected", error="outside", certified=True, radius=0.5),
]  # fmt: skip


def fill(directory, rows=ROWS):
    with RunStore.create_or_open(directory, resolved_yaml="", identity={"a": "b"}) as store:
        store.put_cell(make_cell(KEY))
        store.put_cell(make_cell(OTHER_KEY, position=1))
        store.add_outcomes(KEY, rows)
    return directory


def list_values(columns, name):
    return [repr(value) for value in columns[name]]


@pytest.mark.parametrize("transposed", [3, 1000])
def test_columns_are_the_fields_of_the_records(tmp_path, monkeypatch, transposed):
    monkeypatch.setattr(checked_database, "_ROWS_TRANSPOSED", transposed)
    with RunStore.open_readonly(fill(tmp_path)) as store:
        records, columns = store.read_outcomes(KEY), store.read_outcome_columns(KEY)
        assert len(columns) == len(records) == len(ROWS)
        expected = OutcomeColumns.from_records(records)
        for name in OUTCOME_COLUMNS:
            assert list_values(columns, name) == list_values(expected, name), name
        assert columns["image"][0] is store.read_outcome_columns(KEY, ["image"])["image"][0], "ids are shared"
        counts = count_outcomes(records)
        assert count_columns(columns) == count_columns(expected) == counts == store.count_outcomes(KEY)
        assert counts.missing_gradients == 1
        assert (counts.rejected_clean, counts.rejected_adversarial) == (1, 1)
        assert store.count_outcomes(OTHER_KEY) == count_outcomes(())
        assert [row.position for row in store.read_outcomes_at(KEY, [6, 2, 99])] == [2, 6]
        with pytest.raises(InvariantError, match="no columns"):
            store.read_outcome_columns(KEY, ["1; DROP TABLE outcomes"])
        with pytest.raises(KeyError):
            store.read_outcome_columns(KEY, COUNTED_COLUMNS)["image"]


def count_checks(monkeypatch):
    checks = []
    known = database.find_damage
    monkeypatch.setattr(database, "find_damage", lambda one: checks.append(1) or known(one))
    return checks


def test_a_file_as_its_writer_left_it_is_not_checked_row_by_row(tmp_path, monkeypatch):
    fill(tmp_path)
    size = (tmp_path / "run.db").stat().st_size
    checks = count_checks(monkeypatch)
    RunStore.open_readonly(tmp_path).close()
    assert checks == [1], "a small file has no record"
    for least, expected in ((size + 1, 1), (size, 0)):
        monkeypatch.setattr(unchanged_file, "MIN_RECORDED_BYTES", least)
        RunStore.create_or_open(tmp_path, resolved_yaml="", identity={"a": "b"}).close()
        checks.clear()
        with RunStore.open_readonly(tmp_path) as store:
            assert len(store.read_outcomes(KEY)) == len(ROWS)
        assert len(checks) == expected


def damage_row(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE outcomes SET broken = 1, margin = 1 WHERE position = 0")
    connection.close()


def test_a_changed_file_is_checked_although_there_is_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged_file, "MIN_RECORDED_BYTES", 1)
    record = fill(tmp_path) / unchanged_file.DIGEST_NAME
    assert record.is_file()
    damage_row(tmp_path / "run.db")
    with pytest.raises(DamagedError, match="rows have changed"):
        RunStore.open_readonly(tmp_path)
    with pytest.raises(DamagedError, match="rows have changed"):
        RunStore.create_or_open(tmp_path, resolved_yaml="", identity={"a": "b"})


_OTHER_DIGEST = f'{{"sha256": "{"0" * 64}"}}'


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[" * 1500, "null", '{"sha256": 3}', _OTHER_DIGEST, "x" * 2000]
)
def test_without_a_fitting_record_the_rows_are_checked(tmp_path, monkeypatch, content):
    monkeypatch.setattr(unchanged_file, "MIN_RECORDED_BYTES", 1)
    record = fill(tmp_path) / unchanged_file.DIGEST_NAME
    if content is None:
        record.unlink()
    else:
        record.write_text(content)
    checks = count_checks(monkeypatch)
    with RunStore.open_readonly(tmp_path) as store:
        assert len(store.read_outcomes(KEY)) == len(ROWS)
    assert checks == [1]
    damage_row(tmp_path / "run.db")
    for open_store in (RunStore.open_readonly, _resume):
        with pytest.raises(DamagedError, match="rows have changed"):
            open_store(tmp_path)


def _resume(folder):
    return RunStore.create_or_open(folder, resolved_yaml="", identity={"a": "b"})


def test_there_is_no_record_while_a_writer_is_at_work_or_if_another_one_was(tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged_file, "MIN_RECORDED_BYTES", 1)
    record = fill(tmp_path) / unchanged_file.DIGEST_NAME
    with RunStore.create_or_open(tmp_path, resolved_yaml="", identity={"a": "b"}) as store:
        assert not record.exists()
        store.add_outcomes(OTHER_KEY, [replace(make_row(0), cell=OTHER_KEY)])
        checks = count_checks(monkeypatch)
        RunStore.open_readonly(tmp_path).close()
        assert checks == [1]
        damage_row(tmp_path / "run.db")
    assert not record.exists()
    with pytest.raises(DamagedError):
        RunStore.open_readonly(tmp_path)


def test_a_commit_costs_the_same_however_many_outcomes_there_are(tmp_path):
    with RunStore.create_or_open(tmp_path, resolved_yaml="", identity={"a": "b"}) as store:
        store.put_cell(make_cell(KEY, images=4000))
        steps = []
        for start in range(0, 4000, 500):
            for first in (start, start + 490):
                work = []
                store._connection.set_progress_handler(lambda work=work: work.append(1) and 0, 10)
                store.add_outcomes(KEY, [make_row(first + offset) for offset in range(10)])
                store._connection.set_progress_handler(None, 0)
                steps.append(len(work))
            store.add_outcomes(KEY, [make_row(start + offset) for offset in range(10, 490)])
    assert min(steps[1:]) > 20
    assert max(steps) < 1.2 * min(steps[1:]), "instructions of the database for ten images"
