"""The choice of one of several networks by their accuracy and stability on the validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from robustbench_local.evaluation.training.stability import (
    ImageScores,
    Stability,
    average_scores,
    estimate_mean,
)
from robustbench_local.paired_difference import estimate_paired_difference
from robustbench_local.statistics import Estimate

SelectionRule = Literal["balanced", "clean", "stable"]
RULES: Mapping[SelectionRule, tuple[str, ...]] = {
    "balanced": ("clean", "corruption", "attack"),
    "clean": ("clean",),
    "stable": ("corruption", "attack"),
}
"""Rule -> the figures whose mean is the score."""
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class ScoreDifference:
    """The score of one network less that of another, over the same images.

    Attributes:
        value: The difference, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Images that both scores are over.
        level: Confidence of the interval.
    """

    value: float
    low: float
    high: float
    n: int
    level: float

    @property
    def is_decided(self) -> bool:
        """True if the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def describe_rule(rule: SelectionRule) -> str:
    """Return the rule in words."""
    words = {
        "balanced": "the mean of clean accuracy, accuracy under corruption and accuracy under attack",
        "clean": "clean accuracy",
        "stable": "the mean of accuracy under corruption and accuracy under attack",
    }
    return f"highest score on the validation images: {words[rule]}; of equal ones the smaller network"


def list_rules() -> tuple[SelectionRule, ...]:
    """Return the names of all rules."""
    return get_args(SelectionRule)


def score_images(stability: Stability, rule: SelectionRule) -> dict[str, float]:
    """Return the score of each image that all figures of the rule have, in [0, 1]."""
    scores: list[ImageScores] = [getattr(stability, name) for name in RULES[rule]]
    common = [image for image in scores[0] if all(image in score for score in scores)]
    return average_scores([{image: score[image] for image in common} for score in scores])


def estimate_score(stability: Stability, rule: SelectionRule) -> Estimate:
    """Return the score of a network with its 95% interval."""
    return estimate_mean(score_images(stability, rule), stability.groups)


def rank_networks(scores: Mapping[str, float], sizes: Mapping[str, int]) -> list[str]:
    """Return the names of networks from the best to the worst.

    Args:
        scores: Name -> score.
        sizes: Name -> number of weights, which decides between equal scores; then the given order does.
    """
    order = {name: place for place, name in enumerate(scores)}
    return sorted(scores, key=lambda name: (-scores[name], sizes[name], order[name]))


def compare_scores(
    first: Stability, second: Stability, rule: SelectionRule, *, comparisons: int = 1
) -> ScoreDifference:
    """Estimate how much better the first network is than the second on the same images.

    Args:
        first: The one network.
        second: The other network, on the same images.
        rule: What the score is.
        comparisons: Number of intervals that are to hold together with 95% confidence (Bonferroni).
    """
    level = 1 - (1 - _LEVEL) / max(comparisons, 1)
    mine, other = score_images(first, rule), score_images(second, rule)
    if {*mine.values(), *other.values()} <= {0.0, 1.0}:
        first_right, second_right = (
            {image: score == 1 for image, score in scores.items()} for scores in (mine, other)
        )
        paired = estimate_paired_difference(first_right, second_right, first.groups, level)
        return ScoreDifference(value=paired.value, low=paired.low, high=paired.high, n=paired.n, level=level)
    # a difference in [-1, 1] as a number in [0, 1]
    halves = {image: (mine[image] - other[image] + 1) / 2 for image in mine if image in other}
    estimate = estimate_mean(halves, first.groups, level)
    value, low, high = (2 * end - 1 for end in (estimate.value, estimate.low, estimate.high))
    return ScoreDifference(value=value, low=low, high=high, n=estimate.n, level=level)
