"""The intervals that a run stores for its gates: taken where they can be right, computed again elsewhere."""

from __future__ import annotations

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.interval_table import use_interval_table
from robustbench_local.phased_estimates import Phase, estimate_phased_share
from robustbench_local.reports.analysis.gate_intervals import INTERVALS_KEY, encode_intervals, read_intervals
from robustbench_local.reports.analysis.gates import judge_store, store_intervals
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store import RunStore


class StoredRows:
    """A store that holds nothing but these rows."""

    def __init__(self, rows):
        self.rows = rows

    def read_meta(self, key, default=None):
        return self.rows if key == INTERVALS_KEY else default


@pytest.fixture
def run(tmp_path):
    gates = (
        {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.2},
        {"metric": "clean_accuracy", "min": 0.9},
    )
    return build_run(tmp_path / "run", SampleRun(gates=gates, images=24))


def _open_for_writing(run):
    with RunStore.open_readonly(run) as store:
        identity = store.read_identity()
    return RunStore.create_or_open(run, resolved_yaml=(run / "run.yaml").read_text(), identity=identity)


def test_verdicts_with_and_without_stored_intervals_are_the_same(run):
    with _open_for_writing(run) as store:
        before = judge_store(store)
        assert not read_intervals(store)
        store_intervals(store)
        table = read_intervals(store)
        assert judge_store(store) == before
    assert table
    for (count, n, level), ends in table.items():
        estimate = compute_clopper_pearson(count, n, level)
        assert (estimate.low, estimate.high) == ends


def test_other_gates_than_the_stored_ones_are_judged_too(run):
    gates = [{"metric": "attack_success", "threat": "linf-8", "max": 0.9}]
    with _open_for_writing(run) as store:
        before = judge_store(store, gates)
        store_intervals(store)
        assert judge_store(store, gates) == before


def test_a_table_is_used_and_completed_while_it_is_open():
    table = {(3, 10, 0.95): (0.25, 0.5)}
    with use_interval_table(table):
        known, added = compute_clopper_pearson(3, 10), compute_clopper_pearson(4, 10)
    assert (known.low, known.high) == (0.25, 0.5)
    assert table[4, 10, 0.95] == (added.low, added.high)
    assert compute_clopper_pearson(3, 10).low != 0.25


def test_rows_that_can_be_no_interval_are_left_out():
    good = [3, 10, 0.95, 0.1, 0.6]
    bad = [
        [3, 10, 0.95, 0.31, 0.6],
        [3, 10, 0.95, 0.1, 0.29],
        [3, 10, 0.95, -0.1, 0.6],
        [3, 10, 0.95, 0.1, 1.1],
        [0, 0, 0.95, 0.0, 1.0],
        [3, 10, 0.95, 0.1],
        ["3", 10, 0.95, 0.1, 0.6],
        None,
    ]
    for row in bad:
        assert read_intervals(StoredRows([row])) == {}
    assert read_intervals(StoredRows([good, *bad])) == {(3, 10, 0.95): (0.1, 0.6)}
    assert encode_intervals(read_intervals(StoredRows([good]))) == {INTERVALS_KEY: [good]}


def test_intervals_of_several_phases_are_stored_as_well():
    table = {}
    phases = [Phase(600, 600, 360), Phase(20, 12, 11)]
    with use_interval_table(table):
        share = estimate_phased_share(phases)
    stored = encode_intervals(table)[INTERVALS_KEY]
    assert stored == [[360, 600, 11, 12, 0.95, share.low, share.high]]
    assert read_intervals(StoredRows(stored)) == table
    with use_interval_table({(360, 600, 11, 12, 0.95): (0.2, 0.7)}):
        assert estimate_phased_share(phases).high == 0.7


@pytest.mark.parametrize(
    "row",
    [
        [360, 600, 11, 12, 0.95, 0.56, 0.7],  # the share is 55%
        [360, 600, 11, 12, 0.95, 0.2, 0.54],
        [360, 600, 11, 12, 0.95, -0.1, 0.7],
        [360, 600, 11, 12, 0.95, 0.2, 1.1],
        [360, 600, 11, 12, 5, 0.95, 0.2, 0.7],
        [360, 600, 11, 12, 0.2, 0.7],
        [360, 600, 11, 12, "0.95", 0.2, 0.7],
        [360, 600, 11, 12],
    ],
)
def test_rows_that_can_be_no_interval_of_phases_are_left_out(row):
    assert read_intervals(StoredRows([row])) == {}
