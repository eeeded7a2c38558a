"""The smallest of several shares: its interval covers the true smallest one, although the data chose it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from robustbench_local.smallest_share import estimate_smallest_share
from robustbench_local.statistics import compute_clopper_pearson


def _estimate(counts, sizes, level=0.95):
    estimators = [
        partial(compute_clopper_pearson, int(k), int(n)) for k, n in zip(counts, sizes, strict=True)
    ]
    pooled = partial(compute_clopper_pearson, int(sum(counts)), int(sum(sizes)))
    return estimate_smallest_share(estimators, pooled, level)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [5, 10, 43])
@pytest.mark.parametrize("sizes", [(5,), (20,), (100,), (5, 12, 30, 60, 100)])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.9), (0.2, 0.9)])
def test_the_interval_covers_the_truly_worst_class(classes, sizes, shares):
    generator = np.random.default_rng(5)
    true_shares, images = np.linspace(*shares, classes), np.resize(sizes, classes)
    drawn = generator.binomial(images, true_shares, size=(200, classes))
    estimates = [_estimate(counts, images) for counts in drawn]
    covered = sum(estimate.low <= true_shares.min() <= estimate.high for estimate in estimates)
    assert covered / len(drawn) >= 0.95


@pytest.mark.slow
def test_the_interval_of_the_class_that_the_data_chose_does_not():
    generator = np.random.default_rng(5)
    drawn = generator.binomial(100, 0.9, size=(300, 43)).min(axis=1)
    single = [compute_clopper_pearson(int(count), 100) for count in drawn]
    assert sum(one.low <= 0.9 <= one.high for one in single) / len(drawn) < 0.6


def test_the_value_is_the_smallest_share_and_lies_in_its_interval():
    estimate = _estimate([9, 3, 5], [10, 10, 10])
    assert (estimate.value, estimate.n, estimate.count) == (0.3, 10, 3)
    assert estimate.low <= 0.3 <= estimate.high


def test_the_lower_end_needs_no_correction_and_the_upper_end_does():
    single, estimate = compute_clopper_pearson(30, 100), _estimate([30, 90, 90], [100, 100, 100])
    assert estimate.low == single.low
    assert estimate.high > single.high


def test_a_class_with_few_images_may_be_the_worst():
    estimate = _estimate([30, 3], [100, 3])
    assert estimate.value == 0.3
    assert estimate.low == compute_clopper_pearson(30, 100).low
    assert _estimate([90, 3], [100, 3]).low == compute_clopper_pearson(3, 3).low


def test_many_classes_near_zero_say_more_together_than_each():
    estimate = _estimate([0] * 20, [5] * 20)
    assert estimate.high < 0.1 < compute_clopper_pearson(0, 5).high


def test_of_equal_shares_that_of_most_images_is_named():
    assert _estimate([0, 0, 4], [5, 50, 5]).n == 50


def test_classes_without_images_do_not_count():
    assert _estimate([3, 0], [10, 0]).n == 10
    assert not _estimate([0, 0], [0, 0]).is_known
