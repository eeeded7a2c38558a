"""Intervals that hold at all times: exactly on tiny populations, by simulation on larger ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from robustbench_local.confidence_sequences import (
    ConfidenceSequence,
    compute_anytime_ends,
    compute_log_wealth,
    compute_log_wealth_without_replacement,
    estimate_ordered_share,
)
from robustbench_local.data.image_order import order_images
from robustbench_local.statistics import compute_clopper_pearson


def list_orders(total, population):
    """All orders of a population, each equally likely; those of equal images are the same order."""
    for places in itertools.combinations(range(population), total):
        yield [int(place in places) for place in range(population)]


@pytest.mark.parametrize("population", [1, 2, 5, 8])
def test_no_bet_wins_on_average_and_the_truth_is_covered_at_all_times_together(population):
    for total in range(population + 1):
        orders = list(list_orders(total, population))
        counts = np.array([[0, *itertools.accumulate(order)] for order in orders])
        wealth = np.exp(
            [
                [
                    compute_log_wealth_without_replacement(int(count), n, total, population)
                    for n, count in enumerate(row)
                ]
                for row in counts
            ]
        )
        average = wealth.mean(axis=0)
        assert average[:2] == pytest.approx([1.0, 1.0])
        assert (np.diff(average) <= 1e-6).all()  # less than fair only by what is bet on the impossible
        for level in (0.5, 0.8, 0.95):
            covered = [is_covered_at_all_times(order, total, population, level) for order in orders]
            assert np.mean(covered) >= level


def is_covered_at_all_times(order, total, population, level):
    sequence, share = ConfidenceSequence(population, level), total / population
    for outcome in order:
        sequence.update([outcome])
        interval = sequence.interval
        assert interval.low <= interval.value <= interval.high
        if not interval.low - 1e-9 <= share <= interval.high + 1e-9:
            return False
    assert interval.low == interval.high == interval.value == pytest.approx(share)
    return True


def test_the_closed_form_is_the_product_of_the_bets_of_the_source():
    """Wealth grows by 1 + lambda (x - m), where m is the share left and lambda follows the prediction."""
    order, population = [1, 1, 0, 1, 0, 1, 1, 1, 0, 1], 40
    for total in (9, 20, 33):
        wealth, count = 1.0, 0
        for n, outcome in enumerate(order):
            left = (total - count) / (population - n)
            predicted = (5 * total / population + count) / (5 + n)
            wealth *= 1 + (predicted - left) / (left * (1 - left)) * (outcome - left)
            count += outcome
        logarithm = compute_log_wealth_without_replacement(count, len(order), total, population)
        assert logarithm == pytest.approx(math.log(wealth))


@pytest.mark.parametrize(("count", "n"), [(0, 7), (3, 7), (7, 7), (20, 60)])
def test_a_large_population_is_like_an_infinite_one_and_the_wealth_is_convex(count, n):
    infinite, large = compute_anytime_ends(count, n, None, 0.95), compute_anytime_ends(count, n, 10**7, 0.95)
    assert infinite == pytest.approx(large, abs=1e-4)
    logs = [compute_log_wealth(count, n, share) for share in np.linspace(0.01, 0.99, 50)]
    assert np.diff(logs, n=2).min() > 0
    few = [
        compute_log_wealth_without_replacement(count, n, total, 200)
        for total in range(1 + count, 200 - n + count)
    ]
    assert np.diff(few, n=2).min() > 0
    kept = [
        total / 200 for total in range(201)
        if compute_log_wealth_without_replacement(count, n, total, 200) < math.log(20)
    ]  # fmt: skip
    assert compute_anytime_ends(count, n, 200, 0.95) == (kept[0], kept[-1])


def test_shares_that_the_images_exclude_are_infinitely_rich():
    assert compute_log_wealth(1, 2, 0.0) == compute_log_wealth(1, 2, 1.0) == math.inf
    assert compute_log_wealth(0, 2, 0.0) == compute_log_wealth(2, 2, 1.0) == 0.0
    assert compute_log_wealth_without_replacement(3, 4, 2, 9) == math.inf
    assert compute_log_wealth_without_replacement(3, 5, 8, 9) == math.inf
    assert compute_anytime_ends(0, 0, None, 0.95) == compute_anytime_ends(0, 0, 12, 0.95) == (0.0, 1.0)


def test_the_interval_does_not_depend_on_the_division_into_chunks_and_only_shrinks():
    outcomes = np.random.default_rng(4).random(300) < 0.7
    by_image, widths = ConfidenceSequence(1000), []
    for outcome in outcomes.tolist():
        by_image.update([outcome])
        widths.append(by_image.interval.high - by_image.interval.low)
    assert by_image.interval == estimate_ordered_share(outcomes.tolist(), 1000)
    assert widths == sorted(widths, reverse=True)
    late = compute_anytime_ends(by_image.count, 300, 1000, 0.95)
    assert late[0] <= by_image.interval.low <= by_image.interval.high <= late[1]


def test_an_order_that_is_not_random_starts_anew_and_ends_with_the_truth():
    sequence = ConfidenceSequence(200)
    sequence.update([1] * 100)
    assert sequence.interval.low > 0.9
    sequence.update([0] * 99)
    interval = sequence.interval
    assert interval.low <= 0.5 <= interval.high
    sequence.update([0])
    assert (sequence.interval.low, sequence.interval.high) == (0.5, 0.5)


def test_bad_input_is_named():
    assert not ConfidenceSequence().interval.is_known
    with pytest.raises(ValueError, match="an outcome is 0 or 1"):
        ConfidenceSequence().update([0.5])
    with pytest.raises(ValueError, match="more outcomes than the 2 images"):
        ConfidenceSequence(2).update([1, 1, 1])
    with pytest.raises(ValueError, match="at least 1 image"):
        ConfidenceSequence(0)
    with pytest.raises(ValueError, match="level"):
        ConfidenceSequence(level=1.0)


def build_tables(population, most):
    """Ends of the interval for each number of images and count, (n, count)."""
    low, high = np.zeros((most + 1, most + 1)), np.ones((most + 1, most + 1))
    for n in range(1, most + 1):
        for count in range(n + 1):
            low[n, count], high[n, count] = compute_anytime_ends(count, n, population, 0.95)
    return low, high


def draw_counts(generator, share, population, most, runs):
    """Numbers of images that count at all times of random orders, (runs, most)."""
    counted = np.arange(population) < round(share * population)
    drawn = generator.permuted(np.broadcast_to(counted, (runs, population)), axis=1)
    return drawn[:, :most].cumsum(axis=1)


def simulate_ends(tables, counts):
    """Running intersections at all times, (runs, times) each."""
    times = np.arange(1, counts.shape[1] + 1)
    low = np.maximum.accumulate(tables[0][times, counts], axis=1)
    return low, np.minimum.accumulate(tables[1][times, counts], axis=1)


def simulate_decisions(tables, counts, limit):
    """First decision of each run about a limit: 1 above, -1 below, 0 none; and the images it took."""
    low, high = simulate_ends(tables, counts)
    rulings = np.where(low >= limit, 1, np.where(high < limit, -1, 0))
    first = (rulings != 0).argmax(axis=1)
    return rulings[np.arange(len(rulings)), first], first + 1


def test_decisions_after_optional_stopping_err_in_at_most_5_of_100_runs():
    population, most = 300, 60
    tables, generator = build_tables(population, most), np.random.default_rng(8)
    for share in (0.0, 0.05, 0.5, 0.8):
        counts = draw_counts(generator, share, population, most, 1000)
        low, high = simulate_ends(tables, counts)
        assert np.mean((low[:, -1] <= share) & (share <= high[:, -1])) >= 0.95
        for distance in (-0.3, -0.1, -0.01, 0.01, 0.1, 0.3):
            decisions, _ = simulate_decisions(tables, counts, share + distance)
            wrong = decisions == (1 if distance > 0 else -1)
            assert wrong.mean() <= 0.05
    # looking after each image at an interval for a fixed number of images errs far more often
    fixed = [[compute_clopper_pearson(min(k, n), n) for k in range(most + 1)] for n in range(1, most + 1)]
    ends = tuple(
        np.array([[0.0] * (most + 1), *([getattr(one, end) for one in row] for row in fixed)])
        for end in ("low", "high")
    )
    low, high = simulate_ends(ends, draw_counts(generator, 0.5, population, most, 1000))
    assert np.mean((low[:, -1] <= 0.5) & (high[:, -1] >= 0.5)) < 0.85


def measure_ordered_coverage(class_counts, runs, most):
    """Coverage at all times of class-stratified orders; ``class_counts`` are (images, of them counted)."""
    labels = [label for label, (size, _) in enumerate(class_counts) for _ in range(size)]
    counted = np.array([rank < hits for size, hits in class_counts for rank in range(size)])
    population, ids = len(labels), [str(position) for position in range(len(labels))]
    tables, share = build_tables(population, most), counted.mean()
    orders = [order_images(ids, labels, seed=seed)[:most] for seed in range(runs)]
    low, high = simulate_ends(tables, counted[np.array(orders)].cumsum(axis=1))
    return np.mean((low[:, -1] <= share + 1e-9) & (share - 1e-9 <= high[:, -1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "class_counts",
    [
        [(20, 10)] * 15,  # alike, the smallest classes that count
        [(30, 30)] * 5 + [(30, 0)] * 5,  # as different as they can be
        [(1, 1)] * 100 + [(1, 0)] * 100,  # a class of each image: any order
        [(270, 270), (30, 0)],
        [(200, 190), *[(1, 0)] * 20, *[(5, 1)] * 20],  # many rare classes
        [(2, 1)] * 100,  # alike, too small to count
    ],
)
def test_a_stratified_order_is_covered_as_well(class_counts):
    assert measure_ordered_coverage(class_counts, runs=600, most=120) >= 0.95


def test_a_stratified_order_has_the_shares_of_the_classes_in_every_beginning():
    labels = [0] * 60 + [1] * 30 + [2] * 20 + [3]
    ids = [f"image-{position}" for position in range(len(labels))]
    order = order_images(ids, labels, seed=1)
    assert sorted(order) == list(range(len(labels)))
    for length in range(1, len(labels) + 1):
        seen = [labels[position] for position in order[:length]]
        for label, size in ((0, 60), (1, 30), (2, 20), (3, 1)):
            assert abs(seen.count(label) - length * size / len(labels)) < 2
    assert order != order_images(ids, labels, seed=2)
    turned = order_images(ids[::-1], labels[::-1], seed=1)
    assert [len(ids) - 1 - position for position in turned] == order
    few = [0] * 19 + [1] * 19  # shuffled together
    orders = [order_images(ids[:38], few, seed=seed) for seed in range(60)]
    assert max(sum(few[position] for position in order[:10]) for order in orders) > 6
    firsts = [order_images(ids, labels, seed=seed)[0] for seed in range(500)]
    assert len(set(firsts)) > 100  # any image may be first


def compute_hedged_widths(outcomes, population, times):
    """Widths of the hedged capital process with the predictable bets of Waudby-Smith and Ramdas 2024."""
    means = np.arange(population + 1) / population
    up, down, best, total, widths = (np.zeros_like(means) for _ in range(5))
    total, widths = 0.0, []
    for n, outcome in enumerate(outcomes):
        mean = (0.5 + total) / (n + 1)
        variance = (0.25 + total * (1 - mean) ** 2 + (n - total) * mean**2) / (n + 1)
        bet = math.sqrt(2 * math.log(2 / 0.05) / (variance * (n + 1) * math.log(n + 2)))
        left = (population * means - total) / (population - n)
        fair = np.clip(left, 1e-9, 1 - 1e-9)
        up += np.log1p(np.minimum(bet, 0.5 / fair) * (outcome - fair))
        down += np.log1p(-np.minimum(bet, 0.5 / (1 - fair)) * (outcome - fair))
        wealth = np.where((left < 0) | (left > 1), np.inf, np.logaddexp(up, down) - math.log(2))
        best, total = np.maximum(best, wealth), total + outcome
        if n + 1 in times:
            widths.append(((best < math.log(20)).sum() - 1) / population)
    return widths


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5])
def test_the_interval_is_as_short_as_that_of_hedged_capital_or_shorter(share):
    generator, population, times = np.random.default_rng(5), 1000, (50, 100, 200)
    ours, hedged = [], []
    for _ in range(40):
        outcomes = generator.permutation(np.arange(population) < share * population)[: times[-1]].astype(int)
        ends = [estimate_ordered_share(outcomes[:n].tolist(), population) for n in times]
        ours.append([end.high - end.low for end in ends])
        hedged.append(compute_hedged_widths(outcomes.tolist(), population, times))
    ratio = np.mean(ours, axis=0) / np.mean(hedged, axis=0)
    assert (ratio <= 1.05).all()
    assert ratio.mean() < 0.99
