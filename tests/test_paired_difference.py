"""The interval of a paired difference: exact coverage, agreement with McNemar, ends, groups, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from robustbench_local.paired_difference import compute_score_interval, estimate_paired_difference

SHARES = (0.0, 0.01, 0.05, 0.2, 0.5)


@pytest.mark.parametrize("n", [8, 25, 40])
def test_the_interval_covers_at_least_95_percent_exactly_computed(n):
    counts = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    ends = np.array([compute_score_interval(int(b), int(c), n) for b, c in counts])
    cells = np.column_stack([counts, n - counts.sum(axis=1)])
    for first in SHARES:
        for second in SHARES:
            chances = multinomial.pmf(cells, n, [first, second, 1 - first - second])
            covered = (ends[:, 0] <= first - second + 1e-12) & (first - second - 1e-12 <= ends[:, 1])
            assert chances[covered].sum() >= 0.95, (first, second)


def test_the_interval_leaves_out_zero_when_mcnemar_finds_a_difference():
    """But for cases within a thousandth of the level."""
    for lost in range(1, 40):
        for won in range(lost + 1):
            p_value = binomtest(won, lost + won, 0.5).pvalue
            if abs(p_value - 0.05) > 0.0015:
                assert (compute_score_interval(lost, won, 300)[0] > 0) == (p_value < 0.05), (lost, won)


def test_the_interval_turns_with_the_order_and_narrows_with_images_and_level():
    low, high = compute_score_interval(12, 3, 200)
    assert (low, high) == pytest.approx((0.00237, 0.09508), abs=1e-5)
    assert compute_score_interval(3, 12, 200) == pytest.approx((-high, -low))
    assert compute_score_interval(0, 0, 1000)[1] < 0.006 < compute_score_interval(0, 0, 100)[1]
    assert compute_score_interval(12, 3, 200, 0.99)[1] > high
    assert compute_score_interval(5, 0, 5)[1] == pytest.approx(1.0)


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="images of each kind"):
        compute_score_interval(*counts)


def test_only_common_images_count():
    first = {"a": True, "b": True, "c": False, "only here": True}
    second = {"a": True, "b": False, "c": True, "only there": False}
    difference = estimate_paired_difference(first, second, {})
    assert (difference.n, difference.only_first, difference.only_second) == (3, 1, 1)
    assert (difference.value, difference.p_value, difference.is_known) == (0.0, 1.0, True)
    nothing = estimate_paired_difference(first, {}, {})
    assert not nothing.is_known
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high, nothing.n) == (-1.0, 1.0, 0)


def test_over_groups_the_interval_is_wider():
    first = {f"{i}": True for i in range(60)}
    second = {f"{i}": i >= 6 for i in range(60)}
    groups = {f"{i}": f"track {i // 6}" for i in range(60)}
    alone, grouped = (estimate_paired_difference(first, second, of) for of in ({}, groups))
    assert grouped.groups == 10
    assert (grouped.value, grouped.only_first) == (alone.value, alone.only_first)
    assert alone.low > 0 > grouped.low  # one track alone: nothing is shown about others
    assert grouped.high > alone.high
    assert grouped.p_value > 0.5 > alone.p_value
