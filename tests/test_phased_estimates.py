"""Shares of several phases: the interval covers the truth, and is shorter than that of the part alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import betainc, betaincinv
from scipy.stats import beta, binom

from robustbench_local.phased_estimates import Phase, estimate_phased_share
from robustbench_local.statistics import compute_clopper_pearson


def estimate(images, robust, part, attacked, survived, level=0.95):
    phases = [Phase(images, images, robust), Phase(part, attacked, survived)]
    return estimate_phased_share(phases, level)


def test_the_value_is_the_product_and_the_ends_are_those_of_a_product_of_betas():
    share = estimate(600, 300, 20, 10, 8)
    assert (share.value, share.n, share.phases) == (0.4, 600, (600, 20))

    def compute_chance(end, first, second):
        return quad(lambda p: beta.pdf(p, *first) * betainc(*second, min(1, end / p)), 0, 1)[0]

    assert compute_chance(share.low, (300, 301), (8, 3)) == pytest.approx(0.025, abs=2e-4)
    assert compute_chance(share.high, (301, 300), (9, 2)) == pytest.approx(0.975, abs=2e-4)


def test_a_single_phase_and_phases_that_decide_nothing_have_the_exact_interval():
    assert estimate_phased_share([Phase(50, 50, 20)]) == compute_clopper_pearson(20, 50)
    assert estimate(40, 0, 5, 0, 0).high == compute_clopper_pearson(0, 40).high
    every = estimate(40, 40, 10, 10, 7)
    assert every.high == pytest.approx(compute_clopper_pearson(7, 10).high)
    assert every.low == pytest.approx(compute_clopper_pearson(7, 10).low, abs=0.02)
    same = estimate(50, 30, 50, 30, 20)
    assert same.high == pytest.approx(compute_clopper_pearson(20, 50).high, abs=1e-4)
    assert not estimate(0, 0, 0, 0, 0).is_known


def test_what_no_survivor_of_the_part_tells_stays_open():
    share = estimate(600, 60, 20, 0, 0)
    assert (share.value, share.low) == (0.1, 0.0)
    assert share.high == compute_clopper_pearson(60, 600).high
    certain = estimate(30, 30, 10, 10, 10)
    assert (certain.value, certain.high) == (1.0, 1.0)


def test_three_phases_compose():
    two = estimate(1000, 600, 200, 120, 100)
    three = estimate_phased_share([Phase(1000, 1000, 600), Phase(200, 120, 100), Phase(50, 25, 20)])
    assert three.value == pytest.approx(0.6 * 100 / 120 * 20 / 25)
    assert three.phases == (1000, 200, 50)
    generator = np.random.default_rng(0)
    drawn = [generator.beta(*pair, 200_000) for pair in ((600, 401), (100, 21), (20, 6))]
    assert three.low == pytest.approx(np.quantile(np.prod(drawn, axis=0), 0.025), abs=2e-3)
    settled = estimate_phased_share([Phase(1000, 1000, 600), Phase(200, 120, 100), Phase(50, 25, 25)])
    assert settled.high == two.high
    assert settled.low < two.low


@pytest.mark.parametrize(
    "phases",
    [
        [],
        [Phase(10, 9, 3)],
        [Phase(10, 10, 11)],
        [Phase(10, 10, 5), Phase(12, 5, 4)],
        [Phase(10, 10, 5), Phase(8, 6, 4)],
        [Phase(10, 10, 5), Phase(4, 5, 4)],
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(phases):
    with pytest.raises(ValueError, match="phase"):
        estimate_phased_share(phases)


def measure_misses(images, part, first, second):
    """Exact probabilities that the truth lies below and above the interval, over all samples."""
    attacked = binom.pmf(np.arange(part + 1), part, first)
    others = binom.pmf(np.arange(images - part + 1), images - part, first)
    below = above = 0.0
    for seen, rest in itertools.product(range(part + 1), range(images - part + 1)):
        weight = attacked[seen] * others[rest]
        if weight < 1e-7:
            continue
        for survived, chance in enumerate(binom.pmf(np.arange(seen + 1), seen, second)):
            if weight * chance > 1e-7:
                share = estimate(images, seen + rest, part, seen, survived)
                below += weight * chance * (first * second < share.low - 1e-9)
                above += weight * chance * (first * second > share.high + 1e-9)
    return below, above


@pytest.mark.parametrize(("images", "part"), [(10, 4), (8, 8)])
@pytest.mark.parametrize("second", [0.0, 0.5, 0.95, 1.0])
def test_each_end_errs_in_at_most_half_of_5_percent_whatever_the_shares(images, part, second):
    for first in (0.1, 0.6, 0.97):
        assert max(measure_misses(images, part, first, second)) <= 0.025


def draw_samples(images, part, first, second, runs, seed=0):
    """Draw numbers of samples: robust to the first phase, those of them in the part, robust to both."""
    generator = np.random.default_rng(seed)
    attacked = generator.binomial(part, first, runs)
    robust = attacked + generator.binomial(images - part, first, runs)
    return np.stack([robust, attacked, generator.binomial(attacked, second)], axis=1)


def compare_widths(images, part, first, second, runs):
    """Share of samples that miss the truth, and mean width over that of the exact interval of the part."""
    samples, index = np.unique(draw_samples(images, part, first, second, runs), axis=0, return_inverse=True)
    shares = [
        estimate(images, robust, part, attacked, survived) for robust, attacked, survived in samples.tolist()
    ]
    ends = np.array([(share.low, share.high) for share in shares])[index.ravel()]
    alone = np.array(
        [
            compute_clopper_pearson(survived, part).high - compute_clopper_pearson(survived, part).low
            for _, _, survived in samples.tolist()
        ]
    )[index.ravel()]
    truth = first * second
    missed = np.mean((ends[:, 0] > truth + 1e-9) | (ends[:, 1] < truth - 1e-9))
    return missed, (ends[:, 1] - ends[:, 0]).mean() / alone.mean()


def test_the_interval_of_the_usual_case_is_half_as_wide_as_that_of_the_part_alone():
    missed, ratio = compare_widths(600, 20, 0.6, 0.97, runs=100)
    assert missed <= 0.05
    assert ratio < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("images", "part"), [(1000, 20), (1000, 200), (200, 100), (60, 50)])
@pytest.mark.parametrize("second", [0.0, 0.5, 0.9, 1.0])
def test_the_interval_covers_the_truth_and_is_hardly_ever_wider_on_average(images, part, second):
    for first in (0.05, 0.4, 0.9, 1.0):
        missed, ratio = compare_widths(images, part, first, second, runs=300)
        assert missed <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)  # two standard errors of 300 samples
        assert ratio <= 1.1


def test_a_quantile_of_one_random_phase_is_exact():
    share = estimate(200, 200, 30, 30, 21)
    assert share.high == pytest.approx(betaincinv(22, 9, 0.975))
