"""Intervals and tests against published values, brute force and their own defining equations."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_local.paired_tests import Comparison, adjust_by_holm, compute_mcnemar
from robustbench_local.statistics import (
    Estimate,
    compute_clopper_pearson,
    compute_lower_bounds,
    compute_quartiles,
    compute_wilson,
    compute_worst_case,
    estimate_bounded_mean,
    round_figure,
)


def binomial_cdf(k: int, n: int, p: float) -> float:
    return math.fsum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@given(st.floats(1e-12, 1e6), st.integers(-4, 4))
def test_figures_keep_ten_digits_and_none_in_which_machines_differ(number, steps):
    other = number
    for _ in range(abs(steps)):
        other = math.nextafter(other, math.copysign(math.inf, steps))
    assert round_figure(number) == pytest.approx(number, rel=5.1e-10)
    # the digits that are left are the same, but for the one number in a million that lies on the border
    assert round_figure(other) == pytest.approx(round_figure(number), rel=1.1e-9)
    assert round_figure(round_figure(number)) == round_figure(number)


def test_the_last_digits_of_every_computed_figure_are_rounded():
    k = [7, 123, 499]
    figures = [
        end
        for hits in k
        for one in (compute_clopper_pearson(hits, 500), compute_wilson(hits, 500))
        for end in (one.low, one.high)
    ]
    figures += [compute_mcnemar([True] * 40 + [False] * 21, [False] * 40 + [True] * 21).p_value]
    mean = estimate_bounded_mean([0.1, 0.7, 1 / 3] * 100)
    for figure in [*figures, mean.value, mean.low, mean.high]:
        beside = [math.nextafter(figure, 0), math.nextafter(figure, 1)]
        assert [round_figure(one) for one in beside] == [figure, figure]
    assert (round_figure(math.inf), round_figure(0.0)) == (math.inf, 0.0)
    assert math.isnan(round_figure(math.nan))


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 270, 0.0, 0.0136),
        (0, 1000, 0.0, 0.0037),
        (10, 10, 0.6915, 1.0),
        (81, 263, 0.2527, 0.3676),  # Newcombe 1998, table I
        (15, 148, 0.0578, 0.1617),  # Newcombe 1998, table I
        (1, 29, 0.0009, 0.1776),  # Newcombe 1998, table I
    ],
)
def test_clopper_pearson_gives_the_published_intervals(k, n, low, high):
    estimate = compute_clopper_pearson(k, n)
    assert estimate.low == pytest.approx(low, abs=6e-5)
    assert estimate.high == pytest.approx(high, abs=6e-5)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_table(k, n, low, high):
    estimate = compute_wilson(k, n)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=6e-5)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.9, 0.95]),
)
def test_the_ends_invert_the_binomial_test(counts, level):
    k, n = counts
    estimate = compute_clopper_pearson(k, n, level)
    tail = (1 - level) / 2
    if k > 0:
        assert 1 - binomial_cdf(k - 1, n, estimate.low) == pytest.approx(tail, rel=1e-6)
    if k < n:
        assert binomial_cdf(k, n, estimate.high) == pytest.approx(tail, rel=1e-6)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.count == k


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
def test_clopper_pearson_covers_at_least_its_level(share):
    n = 40
    covered = sum(
        comb(n, k) * share**k * (1 - share) ** (n - k)
        for k in range(n + 1)
        if compute_clopper_pearson(k, n).low <= share <= compute_clopper_pearson(k, n).high
    )
    assert covered >= 0.95


@pytest.mark.parametrize("interval", [compute_clopper_pearson, compute_wilson])
def test_no_images_means_nothing_is_known(interval):
    estimate = interval(0, 0)
    assert math.isnan(estimate.value)
    assert (estimate.low, estimate.high, estimate.is_known, estimate.count) == (0.0, 1.0, False, 0)
    text = json.dumps(estimate.to_json(reason="not run"), allow_nan=False)
    assert json.loads(text) == {"value": None, "low": None, "high": None, "n": 0, "reason": "not run"}


def test_a_known_estimate_needs_no_reason():
    estimate = Estimate(value=0.5, low=0.4, high=0.6, n=100)
    assert estimate.to_json() == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}


@pytest.mark.parametrize("interval", [compute_clopper_pearson, compute_wilson])
@pytest.mark.parametrize(("k", "n", "level"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0)])
def test_impossible_counts_are_refused(interval, k, n, level):
    with pytest.raises(ValueError, match="must lie between"):
        interval(k, n, level)


@pytest.mark.parametrize(("only_first", "only_second"), list(itertools.product(range(7), repeat=2)))
def test_mcnemar_equals_enumerating_every_split(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, False]
    second = [False] * only_first + [True] * only_second + [True, False]
    differing = only_first + only_second
    unevenness = abs(only_first - only_second)
    splits = list(itertools.product([0, 1], repeat=differing))
    as_uneven = sum(abs(differing - 2 * sum(split)) >= unevenness for split in splits)
    comparison = compute_mcnemar(first, second)
    assert comparison.p_value == pytest.approx(as_uneven / len(splits))
    assert (comparison.only_first, comparison.only_second, comparison.n) == (
        only_first,
        only_second,
        differing + 2,
    )


def test_six_to_nothing_is_the_smallest_significant_split():
    assert compute_mcnemar([True] * 6, [False] * 6).is_significant()
    assert not compute_mcnemar([True] * 5, [False] * 5).is_significant()


def test_models_on_different_images_cannot_be_paired():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        compute_mcnemar([True], [True, False])


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1)
    )
)
def test_the_worst_case_is_at_most_the_worst_attack(verdicts):
    worst = compute_worst_case(verdicts)
    assert sum(worst) <= min(sum(attack) for attack in verdicts)
    assert all(held == all(attack[i] for attack in verdicts) for i, held in enumerate(worst))


def test_the_worst_case_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one attack"):
        compute_worst_case([])


@pytest.mark.parametrize(
    ("count", "low", "high"), [(5, 0, math.inf), (6, 1, 6), (10, 2, 9), (25, 8, 18), (100, 40, 61)]
)
def test_the_medians_interval_lies_between_the_tabulated_ranks(count, low, high):
    """Ranks as printed in tables of nonparametric 95 % intervals for the median."""
    found = compute_quartiles(range(count, 0, -1))
    assert (found.low, found.high, found.n) == (low, high, count)
    assert found.median == math.ceil(count / 2)


@pytest.mark.parametrize("count", [6, 9, 16, 41])
def test_the_medians_interval_covers_it_and_is_the_shortest_that_does(count):
    """Summed over all ways in which the values may fall to either side of the true median."""

    def missed(rank: int) -> float:
        return 2 * sum(comb(count, below) for below in range(rank)) / 2**count

    rank = int(compute_quartiles(range(1, count + 1)).low)
    assert missed(rank) <= 0.05 < missed(rank + 1)


def test_quartiles_are_distances_that_occurred_and_infinite_ones_count():
    found = compute_quartiles([3.0, math.inf, 1.0, math.inf, 2.0, math.inf, 4.0])
    assert (found.lower, found.median, found.upper) == (2.0, 4.0, math.inf)
    assert not compute_quartiles([]).is_known
    assert math.isnan(compute_quartiles([]).median)


def test_the_least_share_is_where_the_count_becomes_that_unlikely():
    """One-sided: at the bound, so many or more are counted with probability alpha exactly."""
    counts, n, alpha = [0, 1, 50, 99, 100], 100, 0.001
    bounds = compute_lower_bounds(counts, n, alpha)
    assert bounds[0] == 0.0
    for k, bound in zip(counts[1:], bounds[1:], strict=True):
        assert 1 - binomial_cdf(k - 1, n, bound) == pytest.approx(alpha, rel=1e-6)
    assert bounds[-1] == pytest.approx(alpha ** (1 / n))  # Cohen et al. 2019: all votes agree
    assert compute_lower_bounds(7, 10, 0.025) == pytest.approx(compute_clopper_pearson(7, 10).low)


def test_least_shares_exceed_the_truth_no_more_often_than_alpha():
    n, alpha, share = 60, 0.02, 0.8
    too_high = compute_lower_bounds(list(range(n + 1)), n, alpha) > share
    chance = math.fsum(comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1) if too_high[k])
    assert 0 < chance <= alpha


@pytest.mark.parametrize("values", [[0.3], [0.0, 0.5, 0.5, 1.0] * 20, [i / 400 for i in range(200)]])
def test_the_interval_of_a_mean_is_that_of_the_band_around_the_distribution(values):
    most, steps = 1.0, 20_000
    found = estimate_bounded_mean(values, most=most)
    band = math.sqrt(math.log(2 / 0.05) / (2 * len(values)))
    # the mean is the area above the distribution function; here by the midpoint rule
    below = [sum(value <= (i + 0.5) / steps for value in values) / len(values) for i in range(0, steps, 40)]
    low = math.fsum(1 - min(1, share + band) for share in below) / len(below)
    high = math.fsum(1 - max(0, share - band) for share in below) / len(below)
    assert found.value == pytest.approx(sum(values) / len(values))
    assert found.low == pytest.approx(low, abs=2e-3)
    assert found.high == pytest.approx(high, abs=2e-3)


def test_the_interval_of_a_mean_is_never_wider_than_hoeffdings_and_ends_at_the_range():
    values = [0.01] * 95 + [0.4] * 5
    found = estimate_bounded_mean(values, most=0.4)
    hoeffding = 0.4 * math.sqrt(math.log(2 / 0.05) / 200)
    assert found.high <= found.value + hoeffding + 1e-12
    assert found.low >= found.value - hoeffding - 1e-12
    assert estimate_bounded_mean([0.4] * 50, most=0.4).high == pytest.approx(0.4)


def test_a_mean_of_nothing_is_unknown_and_of_values_out_of_range_refused():
    assert not estimate_bounded_mean([]).is_known
    for wrong in ([1.5], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match="between"):
            estimate_bounded_mean(wrong)


def _compare(p_value):
    return Comparison(n=20, only_first=1, only_second=9, p_value=p_value)


def test_holm_multiplies_the_smallest_p_value_by_the_number_of_comparisons():
    # worked by hand: 4 x .01, 3 x .013, 2 x .03 is less than the one before and takes its value up, 1 x .04
    adjusted = adjust_by_holm([_compare(0.04), _compare(0.01), _compare(0.03), _compare(0.013)])
    assert [one.adjusted_p_value for one in adjusted] == [0.06, 0.04, 0.06, 0.04]
    assert [one.p_value for one in adjusted] == [0.04, 0.01, 0.03, 0.013]
    assert [one.is_significant() for one in adjusted] == [False, True, False, True]


def test_holm_leaves_a_single_comparison_and_never_exceeds_one():
    assert adjust_by_holm([_compare(0.04)])[0].adjusted_p_value == 0.04
    assert [one.adjusted_p_value for one in adjust_by_holm([_compare(0.6), _compare(0.9)])] == [1.0, 1.0]
    assert adjust_by_holm([]) == []


def test_more_pairs_need_more_images():
    # 0.5**5 = 0.031 is below 0.05; among three pairs the limit is 0.0167, which 0.5**6 = 0.0156 keeps
    six, seven = (replace(_compare(1.0), n=n) for n in (6, 7))
    assert six.has_enough_images()
    assert [one.has_enough_images() for one in adjust_by_holm([six] * 3)] == [False] * 3
    assert [one.has_enough_images() for one in adjust_by_holm([seven] * 3)] == [True] * 3
