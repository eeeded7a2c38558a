"""Phased intervals that hold at all times, whichever phase goes on and whenever the run stops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from robustbench_local.confidence_sequences import compute_anytime_totals, estimate_ordered_share
from robustbench_local.phased_sequences import estimate_phased_sequence


def split_phases(kinds, lengths):
    """Outcomes of phases: kind k of an image is the number of phases that it survives."""
    phases, left = [], list(kinds)
    for index, length in enumerate(lengths):
        outcomes = [int(kind > index) for kind in left][:length]
        left = [kind for kind in left[: len(outcomes)] if kind > index]
        phases.append(outcomes)
    return phases


def is_covered(share, truth):
    return share.low - 1e-9 <= truth <= share.high + 1e-9


@pytest.mark.parametrize(
    "kinds", [(0, 1, 1, 2, 2, 2), (1, 1, 1, 2, 2, 2), (0, 0, 0, 2, 2, 2), (0, 1, 2, 2, 2, 2)]
)
def test_the_truth_of_a_tiny_population_is_covered_at_all_times_together(kinds):
    """All orders, and of each the worst stop: the second phase never sees more than the first leaves."""
    orders, truth = set(itertools.permutations(kinds)), kinds.count(2) / len(kinds)
    covered = [
        all(
            is_covered(estimate_phased_sequence(split_phases(order, (first, second)), 6, level=0.5), truth)
            for first in range(1, 7)
            for second in range(first + 1)
        )
        for order in orders
    ]
    assert np.mean(covered) >= 0.5
    settled = estimate_phased_sequence(split_phases(kinds, (6, 6)), 6)
    assert (settled.low, settled.high, settled.value) == pytest.approx((truth, truth, truth))


def test_totals_grow_with_the_number_of_survivors():
    """Why the fewest survivors give the lower end and the most the upper end."""
    for n, level in itertools.product(range(1, 9), (0.5, 0.95)):
        for count in range(n + 1):
            ends = [compute_anytime_totals(count, n, population, level) for population in range(n, 40)]
            assert ends == sorted(ends)
            assert [high for _, high in ends] == sorted(high for _, high in ends)


def test_a_phase_without_outcomes_leaves_the_lower_end_open():
    share = estimate_phased_sequence([[1, 1, 0, 1] * 10, []], 100)
    assert (share.value, share.low, share.n, share.phases) == (0.75, 0.0, 40, (40, 0))
    alone = estimate_ordered_share([1, 1, 0, 1] * 10, 100, level=0.99)  # a fifth of 5% is for early phases
    assert share.high == alone.high
    infinite = estimate_phased_sequence([[1, 1, 0, 1] * 10, []])
    assert infinite.high == estimate_ordered_share([1, 1, 0, 1] * 10, level=0.99).high
    nothing = estimate_phased_sequence([[], []], 100)
    assert (nothing.low, nothing.high, nothing.is_known) == (0.0, 1.0, False)


def test_a_single_phase_is_a_confidence_sequence_and_none_survive_is_exact():
    assert estimate_phased_sequence([[1, 0, 1]], 9) == estimate_ordered_share([1, 0, 1], 9)
    nobody = estimate_phased_sequence([[0] * 9, []], 9)
    assert (nobody.low, nobody.value, nobody.high) == (0.0, 0.0, 0.0)


def test_settled_images_are_those_before_the_next_survivor():
    phases = [[1, 0, 1, 0, 0, 1, 0], [1, 1], [0]]
    assert estimate_phased_sequence(phases, 50).phases == (7, 5, 2)
    assert estimate_phased_sequence([phases[0], [1, 1, 0]], 50).phases == (7, 7)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="2 outcomes of 1 survivors"):
        estimate_phased_sequence([[1, 0], [1, 1]], 5)
    with pytest.raises(ValueError, match="at least one phase"):
        estimate_phased_sequence([], 5)


def run_phased(generator, shares, population, limit):
    """Run two phases until the limit is decided or all is seen, the second phase in small steps."""
    kept = np.cumprod([1.0, *shares])
    counts = np.round(kept * population).astype(int)
    kinds = np.repeat([2, 1, 0], [counts[2], counts[1] - counts[2], population - counts[1]])
    order = generator.permutation(kinds).tolist()
    for first, second in ((16, 0), (16, 6), (60, 6), (60, 20), (population, 20), (population, 40)):
        share = estimate_phased_sequence(split_phases(order, (first, second)), population)
        if share.low >= limit or share.high < limit:
            return 1 if share.low >= limit else -1, share.phases[1], counts[2] / population
    return 0, population, counts[2] / population


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(0.6, 0.97), (0.9, 0.5)])
@pytest.mark.parametrize("distance", [-0.1, -0.01, 0.01, 0.1])
def test_decisions_of_two_phases_err_in_at_most_5_of_100_runs(shares, distance):
    generator, limit = np.random.default_rng(12), np.prod(shares) + distance
    decisions = [run_phased(generator, shares, 150, limit) for _ in range(1000)]
    wrong = [decision == (1 if limit > truth else -1) for decision, _, truth in decisions]
    assert np.mean(wrong) <= 0.05


def test_a_cheap_phase_on_all_images_leaves_the_expensive_one_few():
    generator, population = np.random.default_rng(3), 600
    kinds = generator.permutation(np.repeat([2, 1, 0], [350, 10, 240])).tolist()
    share = estimate_phased_sequence(split_phases(kinds, (population, 30)), population)
    alone = estimate_ordered_share([int(kind == 2) for kind in kinds[: share.phases[1]]], population)
    assert is_covered(share, 350 / 600)
    assert share.high - share.low < 0.6 * (alone.high - alone.low)
    infinite = estimate_phased_sequence(split_phases(kinds, (population, 30)))
    assert infinite.low < share.low < share.high < infinite.high
