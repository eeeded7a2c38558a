"""outcomes.csv as the csv module writes it, and outcomes.parquet with the same rows."""

from __future__ import annotations

import csv
import io
import math

import pytest

from robustbench_local.errors import RefusedError
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.writers import outcome_files
from robustbench_local.reports.writers.outcome_files import list_column_types, open_outcome_files
from robustbench_local.reports.writers.outcome_table import (
    OUTCOME_COLUMNS,
    CellTable,
    ColumnFormatter,
    escape_field,
    load_outcomes_frame,
)
from robustbench_local.store import RunStore

COLUMNS = (
    [1, 2, 300, -4],
    [0.1, 1e-7, 1e22, -2.5],
    [0.0, -0.0, 0.0, -0.0],
    [0.25, math.nan, math.inf, -math.inf],
    [None, 0.5, None, -0.0],
    [None, 1, None, 0],
    [True, False, True, False],
    [None, True, False, None],
    ["a", "b", "c", "d"],
    ["a,b", 'say "no"', "two\nlines", "plain"],
    ["=1+1", "@sum", "-2", "+3"],
    ["100%", "%s", "", "x"],
    [None, "a, b", "", "=x"],
    [1, True, 1.0, "1"],
    ["100% =", "100% =", "100% =", "100% ="],
    [0.0, -0.0, -0.0, 0.0],
    [7, 7, 7, 7],
    [math.nan] * 4,
    [None] * 4,
)


def write_with_csv_module(table):
    text = io.StringIO(newline="")
    rows = zip(*(table.columns[name] for name in OUTCOME_COLUMNS), strict=True)
    csv.writer(text, lineterminator="\n").writerows([escape_field(value) for value in row] for row in rows)
    return text.getvalue()


@pytest.mark.parametrize("offset", range(0, len(COLUMNS), 3))
def test_lines_are_those_of_the_csv_module(offset):
    formatter = ColumnFormatter()
    for shift in (0, 1, 0):  # the same columns again, and others of the same name
        values = [COLUMNS[(place + offset + shift) % len(COLUMNS)] for place in range(len(OUTCOME_COLUMNS))]
        table = CellTable(dict(zip(OUTCOME_COLUMNS, values, strict=True)), 4)
        assert formatter.format_rows(table) == write_with_csv_module(table)
    alike = CellTable({name: ["100%"] * 3 for name in OUTCOME_COLUMNS}, 3)
    assert formatter.format_rows(alike) == write_with_csv_module(alike)


def write(run, folder):
    with RunStore.open_readonly(run.run_dir) as store:
        with open_outcome_files(folder) as write_cell:
            read_evidence(store, write_cell)
        return load_outcomes_frame(store)


@pytest.mark.slow
def test_without_the_extra_there_is_no_parquet_file_not_even_an_old_one(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(outcome_files, "has_arrow", lambda: False)
    (tmp_path / "outcomes.parquet").write_text("of another run")
    write(sample, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["outcomes.csv"]
    assert (tmp_path / "outcomes.csv").read_text("utf-8") == sample.read_text("outcomes.csv")
    (tmp_path / "outcomes.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="symbolic link"):
        write(sample, tmp_path)


def test_types_are_those_of_the_records():
    kinds = list_column_types()
    assert tuple(kinds) == OUTCOME_COLUMNS
    expected = {
        "model": "string", "position": "int64", "broken": "bool_", "broken_8bit": "bool_",
        "margin": "float64", "clean_prediction": "int64", "status": "string", "error": "string",
        "search_phase": "string", "label_name": "string", "l0": "float64",
    }  # fmt: skip
    assert {name: kinds[name] for name in expected} == expected


@pytest.mark.slow
@pytest.mark.extra
def test_the_parquet_file_has_the_rows_of_the_frame(hostile, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra arrow is not installed")
    monkeypatch.setattr(outcome_files, "MAX_ROWS_PER_GROUP", 20)
    frame = write(hostile, tmp_path)
    file = parquet.ParquetFile(tmp_path / "outcomes.parquet")
    assert file.metadata.num_rows == len(frame) > 0
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert max(sizes) == 20
    read = file.read().to_pydict()
    assert tuple(read) == OUTCOME_COLUMNS
    for name in OUTCOME_COLUMNS:
        expected = [None if value != value or value is None else value for value in frame[name].tolist()]  # noqa: PLR0124 - NaN
        assert read[name] == expected, name
    first = (tmp_path / "outcomes.parquet").read_bytes()
    write(hostile, tmp_path)
    assert (tmp_path / "outcomes.parquet").read_bytes() == first
