"""Columns that hold their usual value are known without reading them row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from store_samples import KEY, OTHER_KEY, make_cell, make_outcome

from robustbench_local.errors import InvariantError
from robustbench_local.store.outcome_columns import OutcomeColumns
from robustbench_local.store.record_rows import OUTCOME_COLUMNS
from robustbench_local.store.run_store import RunStore
from robustbench_local.store.usual_values import USUAL_VALUES

CHANGES = {
    "moved_elsewhere": True, "fragile": True, "abstained": True, "error": "it raised", "stage": "square",
    "certified": True, "radius": 0.0, "gradient_steps": 1, "nonfinite_gradient_entries": 2,
    "nonfinite_gradient_steps": 3, "zero_gradient_steps": 4, "unconfirmed_gradient_steps": 5, "draws": 6,
    "successful_draws": 1, "broken_fixed_draw": False, "twin_clean_prediction": 0,
    "twin_clean_correct": False, "twin_prediction": 1, "twin_broken": False, "clean_difference": 0.0,
    "adversarial_difference": 0.5,
    "twin_forward_passes": 7, "twin_backward_passes": 8, "search_phase": "finish",
}  # fmt: skip
USUAL = {
    "moved_elsewhere": False, "fragile": False, "abstained": False, "error": None, "stage": "",
    "certified": None, "radius": None, "gradient_steps": 0, "nonfinite_gradient_entries": 0,
    "nonfinite_gradient_steps": 0, "zero_gradient_steps": 0, "unconfirmed_gradient_steps": 0,
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with RunStore.create_or_open(tmp_path, resolved_yaml="", identity={"a": "b"}) as opened:
        opened.put_cell(make_cell(KEY))
        opened.put_cell(make_cell(OTHER_KEY, position=1))
        yield opened


def read(store, names=OUTCOME_COLUMNS):
    """The columns, and the statements that read them."""
    statements = []
    store._connection.set_trace_callback(statements.append)
    columns = store.read_outcome_columns(KEY, names)
    store._connection.set_trace_callback(None)
    return columns, [line for line in statements if "position" in line and line.startswith("SELECT")]


def test_each_column_of_the_groups_is_a_column_once():
    names = [name for group in USUAL_VALUES for name in group]
    assert sorted(names) == sorted(CHANGES)
    assert set(names) <= set(OUTCOME_COLUMNS)


@pytest.mark.parametrize("changed", [None, *CHANGES])
def test_columns_are_those_of_the_records_whatever_one_image_has(store, changed):
    rows = [make_outcome(position, **USUAL) for position in range(3)]
    if changed is not None:
        rows[1] = replace(rows[1], **{changed: CHANGES[changed]})
    store.add_outcomes(KEY, rows)
    columns, (statement,) = read(store)
    expected = OutcomeColumns.from_records(store.read_outcomes(KEY))
    for name in OUTCOME_COLUMNS:
        assert list(map(repr, columns[name])) == list(map(repr, expected[name])), name
    together = next((group for group in USUAL_VALUES if changed in group), ())
    read_names = statement.removeprefix("SELECT ").split(" FROM ")[0].split(", ")
    assert {name for name in CHANGES if name in read_names} == set(together)
    assert "cell" not in read_names


def test_some_columns_no_rows_and_unknown_columns(store):
    assert [
        len(store.read_outcome_columns(KEY, names)) for names in (("cell",), ("error",), OUTCOME_COLUMNS)
    ] == [0] * 3
    store.add_outcomes(KEY, [make_outcome(0, **USUAL), make_outcome(1, **USUAL)])
    columns, _ = read(store, ("error", "cell"))
    assert (len(columns), columns["error"], columns["cell"]) == (2, [None] * 2, [KEY] * 2)
    columns, _ = read(store, ("label", "stage"))
    assert (columns["label"], columns["stage"]) == ([row.label for row in store.read_outcomes(KEY)], ["", ""])
    with pytest.raises(InvariantError, match="no columns"):
        store.read_outcome_columns(KEY, ["error", "nonsense"])


def test_reads_inside_one_moment_do_not_see_later_commits(store, tmp_path):
    store.add_outcomes(KEY, [make_outcome(0, **USUAL)])
    with RunStore.open_readonly(tmp_path) as reader:
        with reader._database.read_one_moment():
            assert len(reader.read_outcomes(KEY)) == 1
            store.add_outcomes(KEY, [make_outcome(2, **USUAL)])
            assert len(reader.read_outcomes(KEY)) == 1
        assert len(reader.read_outcomes(KEY)) == 2
