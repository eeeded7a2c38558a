"""Severity of readings: what each costs, their mean with its interval, and the worst."""

from __future__ import annotations

import pytest

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.misclassification_severity import (
    SeverityTable,
    compute_severity,
    find_severity_table,
)

STOP = 14
TABLE = SeverityTable(rule="of a test", severity_by_class={0: 0.03, 8: 1.0, 13: 0.05, 15: 0.05})


def evidence(sources=()) -> Evidence:
    entry = {"costs": {"0": 0.03, "8": 1.0}, "sources": list(sources)}
    return Evidence(
        cells=(), worst_cases=(), severity_costs={"rule": "of a test", "models": {"plain": entry}}
    )


def test_each_reading_costs_what_the_table_says_the_label_nothing_and_no_answer_the_most():
    assert [TABLE.get_severity(prediction, STOP) for prediction in (0, 8, STOP, 3, None)] == [
        0.03,
        1.0,
        0.0,
        0.0,
        1.0,
    ]
    assert TABLE.get_severity(8, 8) == 0


def test_expected_severity_is_the_mean_and_the_worst_is_named_and_counted():
    readings = [(STOP, STOP)] * 6 + [(0, STOP)] * 2 + [(8, STOP)] * 2
    found = compute_severity(TABLE, readings)
    assert found.expected.value == pytest.approx((2 * 0.03 + 2 * 1.0) / 10)
    assert found.expected.low == 0  # ten readings say little
    assert found.expected.n == 10
    assert (found.worst_severity, found.worst_class, found.worst_count) == (1.0, 8, 2)


def test_of_equal_severities_one_class_is_named_and_only_its_readings_counted():
    found = compute_severity(TABLE, [(13, STOP), (15, STOP), (15, STOP)])
    assert (found.worst_severity, found.worst_class, found.worst_count) == (0.05, 13, 1)


@pytest.mark.parametrize("readings", [[], [(STOP, STOP)] * 3])
def test_where_nothing_was_misread_nothing_is_the_worst(readings):
    found = compute_severity(TABLE, readings)
    assert (found.worst_severity, found.worst_class, found.worst_count) == (0.0, None, 0)
    assert found.expected.is_known == bool(readings)


def test_an_answer_that_is_not_finite_is_the_worst_without_a_class():
    found = compute_severity(TABLE, [(None, STOP), (STOP, STOP)])
    assert (found.worst_severity, found.worst_class, found.worst_count) == (1.0, None, 1)


def test_a_table_without_sources_is_about_every_image():
    found = find_severity_table(evidence(), "plain")
    assert found is not None
    assert found.severity_by_class == {0: 0.03, 8: 1.0}
    assert found.rule == "of a test"


def test_a_convention_speaks_only_of_its_own_source_class():
    about_stop = evidence(sources=[STOP])
    assert find_severity_table(about_stop, "plain", [STOP]) is not None
    assert find_severity_table(about_stop, "plain", [STOP, 13]) is None
    assert find_severity_table(about_stop, "plain") is None
    assert find_severity_table(about_stop, "another", [STOP]) is None
    assert find_severity_table(Evidence(cells=(), worst_cases=()), "plain") is None
