"""Intervals of means of numbers in a known range: over groups they cover further groups."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_local import mean_intervals
from robustbench_local.mean_intervals import estimate_group_mean
from robustbench_local.resubmission_statistics import estimate_resubmission
from robustbench_local.statistics import compute_clopper_pearson


def test_groups_of_one_image_have_the_exact_interval_of_a_share():
    estimate, exact = (
        estimate_group_mean([1.0] * 3 + [0.0] * 47, [str(name) for name in range(50)]),
        compute_clopper_pearson(3, 50),
    )
    assert (estimate.value, estimate.n, estimate.groups) == (0.06, 50, 50)
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high), abs=2e-3)


def test_images_that_are_copies_of_each_other_count_once():
    names = [str(place // 12) for place in range(120)]
    estimate = estimate_group_mean([1.5 * (place < 36) for place in range(120)], names, most=1.5)
    exact = compute_clopper_pearson(3, 10)
    assert (estimate.value, estimate.n, estimate.groups) == (pytest.approx(0.45), 120, 10)
    assert (estimate.low, estimate.high) == pytest.approx((1.5 * exact.low, 1.5 * exact.high), abs=5e-3)


def test_a_large_group_moves_the_mean_and_widens_the_interval():
    names = ["large"] * 30 + [str(name) for name in range(30)]
    estimate = estimate_group_mean([1.0] * 30 + [0.0] * 30, names)
    assert estimate.value == 0.5
    assert estimate.low < 0.1
    assert estimate.high > 0.8


def test_numbers_out_of_range_and_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        estimate_group_mean([1.2], ["a"])
    with pytest.raises(ValueError, match="shorter"):
        estimate_group_mean([0.2, 0.3], ["a"])
    assert not estimate_group_mean([], []).is_known


def test_repeated_submissions_of_copies_count_each_group_once():
    counts, names = [0] * 60 + [100] * 20, [str(place // 4) for place in range(80)]
    [grouped] = estimate_resubmission(counts, [100] * 80, (10,), groups=names)
    [single] = estimate_resubmission([0] * 15 + [100] * 5, [100] * 20, (10,))
    assert (grouped.success.value, grouped.success.n, grouped.success.groups) == (0.25, 80, 20)
    assert grouped.success.low == pytest.approx(single.success.low, abs=1e-9)
    assert grouped.success.high == pytest.approx(single.success.high, abs=1e-9)
    [apart] = estimate_resubmission(counts, [100] * 80, (10,), groups=[str(place) for place in range(80)])
    [independent] = estimate_resubmission(counts, [100] * 80, (10,))
    assert (apart.success.low, apart.success.high) == (independent.success.low, independent.success.high)
    assert independent.success.groups == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 12, 40])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("alike", [True, False])
def test_the_interval_covers_the_mean_of_all_groups(monkeypatch, count, share, alike):
    monkeypatch.setattr(mean_intervals, "_WEIGHT_DRAWS", 2000)
    generator, covered = np.random.default_rng(5), 0
    for _ in range(200):
        numbers, names = [], []
        for name, size in enumerate(generator.choice([1, 2, 5, 12], size=count)):
            own = float(generator.random() < share) if alike else generator.beta(2 * share, 2 * (1 - share))
            numbers += (generator.random(size) < own).astype(float).tolist()
            names += [str(name)] * int(size)
        estimate = estimate_group_mean(numbers, names)
        covered += estimate.low <= share <= estimate.high
    assert covered / 200 >= 0.94
