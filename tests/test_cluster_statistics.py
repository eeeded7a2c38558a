"""Shares over clusters: the interval covers further clusters, whatever the correlation inside them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustbench_local.cluster_statistics import (
    compare_images,
    compute_image_quartiles,
    compute_sign_flip_p,
    estimate_clustered_share,
    estimate_image_share,
)
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


def test_without_groups_images_are_independent():
    marks = {f"i{number}": number < 7 for number in range(10)}
    assert estimate_image_share(marks, {}) == compute_clopper_pearson(7, 10)


def test_over_groups_the_estimate_says_how_many():
    marks = {f"{number // 5}/{number}": number < 20 for number in range(40)}
    estimate = estimate_image_share(marks, {image: image[0] for image in marks})
    assert (estimate.n, estimate.groups) == (40, 8)
    pooled = compute_clopper_pearson(20, 40)
    assert estimate.low < pooled.low
    assert estimate.high > pooled.high
    assert "n=40 in " in str(estimate)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (5, 1), (9, 9), (12, 3)])
def test_the_test_of_groups_with_one_image_each_is_mcnemars(only_first, only_second):
    images = [f"i{number}" for number in range(40)]
    first = {image: number < only_first or number >= 30 for number, image in enumerate(images)}
    second = {
        image: only_first <= number < only_first + only_second or number >= 30
        for number, image in enumerate(images)
    }
    independent = compare_images(first, second, {})
    grouped = compare_images(first, second, {image: image for image in images})
    assert grouped.p_value == pytest.approx(independent.p_value)
    assert (grouped.groups, independent.groups) == (40, 0)


def test_one_group_of_many_images_is_no_evidence():
    first = {f"i{number}": True for number in range(50)}
    second = dict.fromkeys(first, False)
    assert compare_images(first, second, {}).p_value < 1e-9
    test = compare_images(first, second, dict.fromkeys(first, "one"))
    assert test.p_value == 1.0
    assert not test.has_enough_images()


def test_a_flip_of_all_signs_is_counted_exactly():
    # 3 + 2 + 1 = 6 is reached by 2 of 8 flips in size; 4 by 4 of 8
    assert compute_sign_flip_p([3, 2, 1]) == 0.25
    assert compute_sign_flip_p([3, 2, -1]) == 0.5
    assert compute_sign_flip_p([0, 0]) == 1.0


@pytest.mark.slow
def test_the_test_over_groups_errs_as_rarely_as_it_says_and_mcnemars_does_not():
    generator, wrong, naive = np.random.default_rng(7), 0, 0
    for _ in range(300):
        shares = generator.beta(0.5, 0.5, (2, 20))  # both models: the same mean, objects of their own
        drawn = generator.random((2, 20, 10)) < shares[:, :, None]
        first, second = (
            {f"{g}/{i}": bool(drawn[m, g, i]) for g in range(20) for i in range(10)} for m in (0, 1)
        )
        groups = {image: image.split("/")[0] for image in first}
        wrong += compare_images(first, second, groups).p_value < 0.05
        naive += compare_images(first, second, {}).p_value < 0.05
    assert wrong / 300 <= 0.07
    assert naive / 300 > 0.2


def test_the_median_of_distances_over_groups_is_less_certain():
    distances = {f"{group}/{number}": 1.0 + group for group in range(8) for number in range(10)}
    groups = {image: image.split("/")[0] for image in distances}
    single, over = compute_image_quartiles(distances, {}), compute_image_quartiles(distances, groups)
    assert (over.median, over.n) == (single.median, single.n)
    assert over.low < single.low
    assert over.high > single.high
    assert compute_image_quartiles({"a": math.inf, "b": math.inf}, {"a": "x", "b": "y"}).high == math.inf


@pytest.mark.slow
@pytest.mark.parametrize(("count", "sizes"), [(40, (15,)), (10, (15,)), (60, (1, 2, 30)), (200, (2,))])
def test_the_interval_covers_with_groups_of_all_sizes(count, sizes):
    generator, covered = np.random.default_rng(2), 0
    images = np.resize(sizes, count)
    for _ in range(200):
        drawn = generator.binomial(images, generator.beta(1.4, 0.6, count))
        estimate = estimate_clustered_share(drawn.tolist(), images.tolist())
        covered += estimate.low <= 0.7 <= estimate.high
    assert covered / 200 >= 0.91
