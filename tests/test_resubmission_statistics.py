"""The success of repeated submissions: exact where it can be enumerated, and its interval by simulation."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from robustbench_local.resubmission_statistics import (
    MAX_TRIES,
    compute_success_share,
    estimate_resubmission,
)
from robustbench_local.statistics import compute_clopper_pearson

TRIES = (1, 10, 100, 1000)


@pytest.mark.parametrize(
    ("k", "m", "tries"), [(0, 6, 3), (1, 6, 3), (2, 6, 3), (4, 6, 3), (6, 6, 1), (3, 5, 5)]
)
def test_the_share_counts_the_subsets_with_a_success(k, m, tries):
    subsets = list(combinations(range(m), tries))
    assert compute_success_share(k, m, tries) == pytest.approx(
        sum(min(subset) < k for subset in subsets) / len(subsets)
    )


@pytest.mark.parametrize("tries", [1, 3, 12])
@pytest.mark.parametrize("p", [0.0, 0.02, 0.4, 1.0])
def test_the_share_has_no_bias(p, tries):
    m = 12
    mean = sum(
        comb(m, k) * p**k * (1 - p) ** (m - k) * compute_success_share(k, m, tries) for k in range(m + 1)
    )
    assert mean == pytest.approx(1 - (1 - p) ** tries)


def test_answers_that_do_not_vary_have_the_exact_interval_of_a_share():
    points = estimate_resubmission([100] * 3 + [0] * 47, [100] * 50, (1, 100))
    exact = compute_clopper_pearson(3, 50)
    for point in points:
        assert not point.is_bound
        assert point.success.value == pytest.approx(0.06)
        assert point.success.low == pytest.approx(exact.low, abs=2e-3)
        assert point.success.high == pytest.approx(exact.high, abs=2e-3)


def test_more_submissions_never_help_less():
    points = estimate_resubmission([0, 1, 3, 40, 100], [100] * 5, (1, 2, 10, 50, 100, 101, 500, 1000))
    for name in ("value", "low", "high"):
        ends = [getattr(point.success, name) for point in points]
        assert ends == sorted(ends)
    assert [point.is_bound for point in points] == [False] * 5 + [True] * 3


def test_beyond_the_draws_there_are_bounds_that_hold_what_may_follow():
    [point] = estimate_resubmission([0] * 200, [100] * 200, (1000,))
    assert point.is_bound
    assert point.success.value == 0
    assert point.success.high > 10 * 0.9 * compute_clopper_pearson(0, 200).high
    [known] = estimate_resubmission([0] * 200, [1000] * 200, (1000,))
    assert not known.is_bound
    assert known.success.high == pytest.approx(compute_clopper_pearson(0, 200).high, abs=2e-3)


def test_no_image_leaves_everything_open():
    [point] = estimate_resubmission([], [], (10,))
    assert not point.success.is_known
    assert (point.success.low, point.success.high) == (0, 1)


@pytest.mark.parametrize(
    ("successes", "draws", "tries"),
    [([3], [2], (1,)), ([-1], [2], (1,)), ([0], [0], (1,)), ([0], [9], (0,)), ([0], [9], (MAX_TRIES + 1,))],
)
def test_impossible_counts_are_refused(successes, draws, tries):
    with pytest.raises(ValueError, match="between"):
        estimate_resubmission(successes, draws, tries)


DISTRIBUTIONS = {
    "never": lambda generator, n: np.zeros(n),
    "beta": lambda generator, n: generator.beta(0.5, 5, n),
    "half never": lambda generator, n: generator.beta(0.5, 5, n) * (generator.random(n) < 0.5),
    "one rate": lambda generator, n: np.full(n, 0.01),
    "few and often": lambda generator, n: 0.5 * (generator.random(n) < 0.05),
    "few and seldom": lambda generator, n: 0.02 * (generator.random(n) < 0.05),
    "always or never": lambda generator, n: 1.0 * (generator.random(n) < 0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_interval_covers(name, monkeypatch):
    monkeypatch.setattr("robustbench_local.mean_intervals._WEIGHT_DRAWS", 2000)
    generator, repetitions, images = np.random.default_rng(7), 200, 100
    many = DISTRIBUTIONS[name](generator, 1_000_000)
    truths = [float(np.mean(1 - (1 - many) ** tries)) for tries in TRIES]
    covered = np.zeros(len(TRIES))
    for _ in range(repetitions):
        k = generator.binomial(100, DISTRIBUTIONS[name](generator, images))
        points = estimate_resubmission(k.tolist(), [100] * images, TRIES)
        covered += [
            point.success.low - 1e-6 <= truth <= point.success.high + 1e-6
            for point, truth in zip(points, truths, strict=True)
        ]
    assert (covered / repetitions >= 0.93).all()
