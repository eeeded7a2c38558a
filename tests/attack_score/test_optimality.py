"""The number itself: worked examples, limits, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustbench_local.attack_score.optimality import (
    compute_envelope,
    compute_optimality,
    compute_robust_accuracies,
    estimate_optimality,
    find_distance_limit,
)

BEST = np.array([0.0, 1.0, 2.0, 4.0])
"""Envelope of four images, the first misclassified without an attack."""


def test_a_worked_example():
    # up to 4: A = (0 + 2 + 2 + 4) / 4 = 2, B = 7 / 4, C * D = 3
    assert compute_optimality([0.0, 2.0, 2.0, 5.0], BEST) == pytest.approx(1 - (2 - 1.75) / (3 - 1.75))


def test_the_ends_are_exact():
    assert compute_optimality(BEST.tolist(), BEST) == 1.0
    assert compute_optimality([0.0, math.inf, math.inf, math.inf], BEST) == 0.0
    assert compute_optimality([0.0, 4.0, 4.0, 4.0], BEST) == 0.0


def test_it_is_the_area_between_the_curves_of_robust_accuracy():
    generator = np.random.default_rng(0)
    best = generator.random(50)
    distances = best * (1 + generator.random(50))
    limit = find_distance_limit(best)
    radii = (np.arange(20000) + 0.5) / 20000 * limit
    area, least = (np.mean(compute_robust_accuracies(values, radii)) * limit for values in (distances, best))
    expected = 1 - (area - least) / (limit - least)
    assert compute_optimality(distances.tolist(), best) == pytest.approx(expected, abs=1e-3)


def test_images_that_no_attack_succeeds_on_change_no_order():
    hard = np.append(BEST, math.inf)
    near, far = [0.0, 1.0, 2.0, 4.0, math.inf], [0.0, 2.0, 2.0, 4.0, math.inf]
    assert compute_optimality(near, hard) == 1.0
    assert 0.5 < compute_optimality(far, hard) < 1.0


@pytest.mark.parametrize("best", [[0.0, 0.0], [math.inf, math.inf], [2.0, 2.0], [3.0]])
def test_nothing_to_tell_apart_is_undefined_and_no_number(best: list[float]):
    assert compute_optimality(best, np.array(best)) is None
    assert estimate_optimality([(best, np.array(best))]) is None


def test_the_envelope_is_the_smallest_distance_of_each_image():
    assert compute_envelope([[1.0, math.inf, 3.0], [2.0, 2.0, math.inf]]).tolist() == [1.0, 2.0, 3.0]


def test_the_global_value_is_the_mean_over_models_with_an_interval():
    generator = np.random.default_rng(1)
    pairs = []
    for spread in (0.2, 0.6):
        best = 0.1 + generator.random(80)
        pairs.append(((best * (1 + spread * generator.random(80))).tolist(), best))
    known = estimate_optimality(pairs, seed=3)
    assert known is not None
    local = [compute_optimality(*pair) for pair in pairs]
    assert known.value == pytest.approx(sum(local) / 2)
    assert known.low < known.value < known.high
    assert known.n == 160
    assert estimate_optimality(pairs, seed=3) == known
    narrow = estimate_optimality([(distances * 9, np.tile(best, 9)) for distances, best in pairs], seed=3)
    assert narrow.high - narrow.low < (known.high - known.low) / 2


def test_intervals_cover_the_value_of_the_population():
    generator = np.random.default_rng(2)
    best = generator.gamma(3.0, size=4000)
    distances = best * (1 + generator.exponential(0.2, size=4000))
    truth, covered = compute_optimality(distances.tolist(), best), 0
    for trial in range(40):
        rows = generator.choice(4000, 100, replace=False)
        rows[0] = best.argmax()  # the radius at which the curve ends is that of the whole
        known = estimate_optimality([(distances[rows].tolist(), best[rows])], seed=trial)
        covered += known.low - 0.01 <= truth <= known.high + 0.01
    assert covered >= 34


def test_an_interval_ends_at_0_and_1():
    for distances in (BEST.tolist(), [0.0, math.inf, math.inf, math.inf]):
        known = estimate_optimality([(distances, BEST)])
        assert known is not None
        assert known.low == pytest.approx(known.value, abs=1e-9) == known.high
        assert math.copysign(1, known.low) == 1
