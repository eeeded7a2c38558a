"""Shares over clusters: the interval covers further clusters, whatever the correlation inside them."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_local.cluster_statistics import estimate_clustered_share
from robustbench_local.statistics import compute_clopper_pearson


def _draw_clusters(generator, count, size, share, correlation):
    if correlation == 0:
        return generator.binomial(size, share, size=count).tolist()
    scale = (1 - correlation) / correlation
    return generator.binomial(size, generator.beta(share * scale, (1 - share) * scale, size=count)).tolist()


def _measure_coverage(count, share, correlation, repetitions, size=40):
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(repetitions):
        estimate = estimate_clustered_share(
            _draw_clusters(generator, count, size, share, correlation), [size] * count
        )
        covered += estimate.low <= share <= estimate.high
    return covered / repetitions


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 20])
@pytest.mark.parametrize(("share", "correlation"), [(0.77, 0.3), (0.1, 0.6), (0.95, 0.9)])
def test_the_interval_covers_the_mean_of_all_objects(count, share, correlation):
    assert _measure_coverage(count, share, correlation, repetitions=120) >= 0.9


@pytest.mark.slow
def test_views_taken_as_independent_do_not_cover_it():
    generator, covered = np.random.default_rng(3), 0
    for _ in range(300):
        drawn = _draw_clusters(generator, 4, 480, 0.77, 0.3)
        pooled = compute_clopper_pearson(sum(drawn), 4 * 480)
        covered += pooled.low <= 0.77 <= pooled.high
    assert covered / 300 < 0.3


def test_alike_clusters_give_nearly_the_interval_of_independent_observations():
    estimate = estimate_clustered_share([20] * 60, [40] * 60)
    pooled = compute_clopper_pearson(1200, 2400)
    assert estimate.low == pytest.approx(pooled.low, abs=0.01)
    assert estimate.high == pytest.approx(pooled.high, abs=0.01)
    assert (estimate.value, estimate.n) == (0.5, 2400)


def test_four_signs_of_which_one_differs_say_little():
    estimate = estimate_clustered_share([211, 470, 390, 415], [480] * 4)
    assert estimate.value == pytest.approx(0.774, abs=0.001)
    assert estimate.low < 0.55
    assert estimate.high > 0.88


def test_constant_clusters_count_like_single_observations():
    # each object is a success in all of its views or in none: as many observations as objects
    estimate, single = (
        estimate_clustered_share([40] * 12 + [0] * 8, [40] * 20),
        compute_clopper_pearson(12, 20),
    )
    assert estimate.low == pytest.approx(single.low, abs=0.04)
    assert estimate.high == pytest.approx(single.high, abs=0.04)


@pytest.mark.parametrize("k", [0, 40])
def test_the_ends_are_reached(k):
    estimate = estimate_clustered_share([k] * 10, [40] * 10)
    ends = (estimate.low, estimate.high)
    assert ends[0 if k == 0 else 1] == (0.0 if k == 0 else 1.0)
    assert 0 < ends[1] < 0.4 if k == 0 else 0.6 < ends[0] < 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_cluster_says_nothing_of_others(count):
    estimate = estimate_clustered_share([20, 21][:count], [40, 40][:count])
    assert (estimate.low == 0.0 and estimate.high == 1.0) == (count == 1)


def test_empty_clusters_do_not_count():
    assert estimate_clustered_share([20, 0, 21], [40, 0, 40]) == estimate_clustered_share([20, 21], [40, 40])
    assert not estimate_clustered_share([0], [0]).is_known


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="between 0 and its size"):
        estimate_clustered_share([5], [4])
    with pytest.raises(ValueError, match="argument 2"):
        estimate_clustered_share([1], [4, 4])
