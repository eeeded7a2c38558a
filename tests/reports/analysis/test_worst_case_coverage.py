"""The interval of a worst case over attacks that met different images holds the truth in 95 of 100 runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.worst_case import WorstCase

HELD, BROKEN = ImageVerdict(True, False, True), ImageVerdict(True, True, False)


def interval(held, common, unbroken, outside):
    """What is stated if so many of the common images held, and so many of the others are unbroken so far."""
    verdicts = {f"c{place}": HELD if place < held else BROKEN for place in range(common)}
    others = {f"o{place}": HELD if place < unbroken else BROKEN for place in range(outside)}
    every = verdicts | others
    worst = WorstCase(
        subject=EvaluatedModel(model="m", defense="none"),
        threat=Threat(norm="Linf", eps=0.03, name="linf-8"),
        attacks=("weak", "strong"), missing_attacks=(), attack_labels=("weak", "strong"),
        missing_attack_labels=(), verdicts=verdicts if unbroken else every, any_attack_verdicts=every,
    )  # fmt: skip
    share = worst.robust_accuracy
    assert share.low <= share.value <= share.high
    return share.low, share.high


def misses(common, outside, robust, withstands_weak):
    """Probability that the true share lies below and above the interval, over all runs; exact."""
    held = binom.pmf(np.arange(common + 1), common, robust)
    unbroken = binom.pmf(np.arange(outside + 1), outside, withstands_weak)
    below = above = 0.0
    for first, second in itertools.product(range(common + 1), range(outside + 1)):
        weight = held[first] * unbroken[second]
        if weight > 1e-7:
            low, high = interval(first, common, second, outside)
            below += weight * (robust < low)
            above += weight * (robust > high)
    return below, above


@pytest.mark.parametrize(("common", "outside"), [(2, 5), (8, 16), (12, 3), (6, 40)])
@pytest.mark.parametrize("robust", [0.02, 0.15, 0.45, 0.9])
@pytest.mark.parametrize("missed_by_weak", [0.0, 0.05, 0.5])
def test_the_interval_covers_whatever_the_weak_attack_misses(common, outside, robust, missed_by_weak):
    below, above = misses(common, outside, robust, min(1.0, robust + missed_by_weak))
    assert below + above <= 0.05
    assert below <= 0.025 + 1e-9


def test_using_both_upper_ends_at_their_full_level_would_not_cover():
    """Why each upper end has half the probability of an error: the test can fail."""
    from robustbench_local.statistics import compute_clopper_pearson

    common, outside, robust = 30, 30, 0.4
    held = binom.pmf(np.arange(31), 30, robust)
    missed = sum(
        held[first] * held[second]
        for first, second in itertools.product(range(31), range(31))
        if robust
        > min(
            compute_clopper_pearson(first, common).high,
            compute_clopper_pearson(first + second, common + outside).high,
        )
    )
    assert missed > 0.025
