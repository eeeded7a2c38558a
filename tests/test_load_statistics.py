"""Quantiles, rates and trends against closed forms, and how often they err on simulated services."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, kendalltau, norm

from robustbench_local.load_statistics import (
    DEPENDENCE_BATCHES,
    TREND_BLOCKS,
    compute_score_tail,
    estimate_quantile,
    estimate_rate,
    estimate_trend,
    find_critical_score,
    find_quantile_ranks,
    measure_dependence,
)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [10, 71, 72, 500])
def test_ranks_cover_the_quantile_and_no_closer_ones_do(count, share):
    low, high = find_quantile_ranks(count, share, 0.95)
    # the r-th of n values is above the quantile if fewer than r lie below it
    assert low == 0 or binom.cdf(low - 1, count, share) <= 0.025
    assert binom.cdf(low, count, share) > 0.025
    if high is None:
        assert binom.cdf(count - 1, count, share) < 0.975
    else:
        assert binom.sf(high - 1, count, share) <= 0.025
        assert binom.sf(high - 2, count, share) > 0.025


def test_the_95th_percentile_needs_72_values_for_an_upper_end():
    values = [float(number) for number in range(72)]
    assert math.isinf(estimate_quantile(values[:71], 0.95).high)
    assert estimate_quantile(values, 0.95).high == 71


def test_quantiles_are_values_and_failed_requests_are_the_slowest():
    shuffled = list(np.random.default_rng(0).permutation(np.arange(1, 101.0)))
    median = estimate_quantile(shuffled, 0.5)
    assert (median.value, median.low, median.high, median.n) == (
        50,
        40,
        61,
        100,
    )
    failed = estimate_quantile([1.0] * 90 + [math.inf] * 10, 0.95)
    assert math.isinf(failed.value)
    assert not estimate_quantile([], 0.5).is_known


def test_alternating_marks_are_independent_and_runs_of_them_are_not():
    size = DEPENDENCE_BATCHES * 10
    assert measure_dependence([bool(number % 2) for number in range(size)]) == 1
    halves = measure_dependence([number < size / 2 for number in range(size)])
    # ten batches of 1 and ten of 0: a variance of 20/19/4, times 10 marks, over 1/4
    assert halves == pytest.approx(10 * 20 / 19)
    assert measure_dependence([True, False] * 10) == 1  # one mark for each batch says nothing


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_intervals_cover_the_quantile_of_latencies_that_depend_on_each_other(correlation, share):
    draws, covered, repeats = np.random.default_rng(1), 0, 150
    for _ in range(repeats):
        latencies = [draws.standard_normal()]
        for step in draws.standard_normal(1000):
            latencies.append(correlation * latencies[-1] + math.sqrt(1 - correlation**2) * step)
        estimate = estimate_quantile([10 + one for one in latencies], share)
        covered += estimate.low <= 10 + norm.ppf(share) <= estimate.high
    assert covered >= binom.ppf(0.001, repeats, 0.93)


def test_a_rate_has_students_interval_over_its_slices():
    rate = estimate_rate([8, 12, 10, 10], seconds=2.0)
    # mean 5 a second, deviation sqrt(2/3), t(0.975, 3) = 3.1824
    half = 3.182446 * math.sqrt(2 / 3) / 2
    assert (rate.value, rate.n) == (5.0, 4)
    assert (rate.low, rate.high) == (pytest.approx(5 - half), pytest.approx(5 + half))
    assert estimate_rate([0, 4], 1.0).low == 0  # no rate is below 0
    assert math.isinf(estimate_rate([3], 1.0).high)
    assert not estimate_rate([], 1.0).is_known


def test_a_line_has_its_slope_and_a_constant_has_none():
    times = list(range(20))
    line = estimate_trend(times, [3.0 * time + 1 for time in times])
    assert (line.slope, line.low, line.high) == (3.0, 3.0, 3.0)
    assert line.p_value == pytest.approx(2 / math.factorial(10), rel=1e-3)  # one order of all
    assert line.has_trend
    flat = estimate_trend(times, [7.0] * len(times))
    assert (flat.slope, flat.p_value, flat.has_trend) == (0.0, 1.0, False)
    assert estimate_trend(times[:-1], [0.0] * (len(times) - 1)) is None


def test_scores_have_kendalls_probabilities():
    # Kendall 1970, appendix table 1: four values, P(S >= 4) = 0.167, P(S >= 6) = 0.042
    assert compute_score_tail(4, 4) == pytest.approx(2 * 4 / 24)
    assert compute_score_tail(4, 6) == pytest.approx(2 / 24)
    assert compute_score_tail(4, 0) == 1
    draws = np.random.default_rng(0)
    for values in (draws.permutation(10) for _ in range(5)):
        known = kendalltau(range(10), values, method="exact")
        assert compute_score_tail(10, abs(round(known.statistic * 45))) == pytest.approx(known.pvalue)
    assert find_critical_score(TREND_BLOCKS, 0.01) == 29
    assert compute_score_tail(10, 29) <= 0.01 < compute_score_tail(10, 27)


@pytest.mark.parametrize(("first", "has_trend"), [(8, True), (9, False)])
def test_a_trend_has_a_probability_of_one_percent_at_most(first, has_trend):
    # one value out of place makes as many inversions: a score of 29, or of 27
    blocks = [first, *(number for number in range(10) if number != first)]
    trend = estimate_trend(list(range(20)), [float(value) for value in blocks for _ in range(2)])
    assert trend.has_trend == (trend.low > 0) == has_trend
    assert (trend.p_value <= 0.01) == has_trend


def test_noise_has_a_trend_in_one_case_of_a_hundred():
    draws, repeats = np.random.default_rng(2), 400
    times = list(range(60))
    found = sum(estimate_trend(times, draws.standard_normal(60).tolist()).has_trend for _ in range(repeats))
    assert found <= binom.ppf(0.999, repeats, 0.01)


def test_one_outlier_and_one_step_are_no_trend():
    times = list(range(60))
    assert not estimate_trend(times, [0.0] * 59 + [1e9]).has_trend
    assert not estimate_trend(times, [0.0] * 30 + [1.0] * 30).has_trend
