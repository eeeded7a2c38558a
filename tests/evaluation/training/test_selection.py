"""The choice of one of several networks: the rule, ties, and whether a lead is decided."""

from __future__ import annotations

import pytest

from robustbench_local.evaluation.training.selection import (
    compare_scores,
    describe_rule,
    estimate_score,
    list_rules,
    rank_networks,
)
from robustbench_local.evaluation.training.stability import Stability, average_stability, estimate_mean

IMAGES = [f"image/{number}" for number in range(40)]


def _stability(clean, corruption=None, attack=None, groups=None):
    """The first images are right: so many of forty."""
    shares = [clean, clean if corruption is None else corruption, clean if attack is None else attack]
    marks = [{image: float(row < count) for row, image in enumerate(IMAGES)} for count in shares]
    return Stability(clean=marks[0], corruption=marks[1], attack=marks[2], groups=groups or {})


@pytest.mark.parametrize(("rule", "score"), [("balanced", 0.5), ("clean", 0.75), ("stable", 0.375)])
def test_the_score_is_the_mean_of_the_rules_figures(rule, score):
    estimate = estimate_score(_stability(30, 20, 10), rule)
    assert estimate.value == pytest.approx(score)
    assert estimate.low < score < estimate.high
    assert estimate.n == 40
    assert "validation images" in describe_rule(rule)
    assert rule in list_rules()


def test_the_best_score_wins_and_of_equal_ones_the_smaller_network():
    scores = {"large": 0.9, "worse": 0.8, "small": 0.9, "same": 0.9}
    sizes = {"large": 9, "worse": 1, "small": 2, "same": 2}
    assert rank_networks(scores, sizes) == ["small", "same", "large", "worse"]


@pytest.mark.parametrize("rule", ["clean", "balanced"])
def test_a_lead_is_decided_only_if_its_interval_leaves_0_out(rule):
    large = compare_scores(_stability(38), _stability(10), rule)
    assert large.value == pytest.approx(0.7)
    assert large.low > 0
    assert large.is_decided
    small = compare_scores(_stability(38), _stability(36), rule)
    assert small.value == pytest.approx(0.05)
    assert not small.is_decided
    same = compare_scores(_stability(20), _stability(20), rule)
    assert same.low < same.value == 0 < same.high
    together = compare_scores(_stability(38), _stability(10), rule, comparisons=5)
    assert together.low < large.low
    assert together.level == pytest.approx(0.99)


def test_trainings_are_averaged_image_by_image():
    both = average_stability([_stability(40), _stability(20)])
    assert both.clean["image/39"] == 0.5
    assert both.estimate_figures()["clean"].value == pytest.approx(0.75)
    single = average_stability([_stability(40)]).estimate_figures()["clean"]
    assert (single.value, single.high, single.groups) == (1.0, 1.0, 0)


def test_intervals_are_over_groups_where_images_have_them():
    groups = {image: f"sign/{row // 10}" for row, image in enumerate(IMAGES)}
    for scores in (_stability(20).clean, {image: row / 40 for row, image in enumerate(IMAGES)}):
        over_groups, over_images = estimate_mean(scores, groups), estimate_mean(scores, {})
        assert over_groups.groups == 4
        assert over_images.groups == 0
        assert over_groups.high - over_groups.low > over_images.high - over_images.low
