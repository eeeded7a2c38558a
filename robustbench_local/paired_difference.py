"""The difference of two shares over the same images, such as the robust accuracy of two releases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from robustbench_local.cluster_statistics import Groups, Marks, compare_images, estimate_image_share
from robustbench_local.statistics import round_figure

CONTINUITY_CORRECTION = 1.0
"""Half of the step between two differences of counts with the same number of differing images."""
_BISECTION_STEPS = 60
"""Halvings of an interval of width 2: more digits than a float has."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The first share less the second over the same images, with its interval and an exact test.

    Without common images nothing is known: ``value`` is NaN and the interval is all of [-1, 1].
    """

    value: float
    """The difference, in [-1, 1]; NaN when ``n`` is 0."""
    low: float
    """Lower end of the interval, in [-1, 1]."""
    high: float
    """Upper end of the interval, in [-1, 1]."""
    n: int
    """Images that both shares count."""
    only_first: int
    """Images that only the first share counts as a success."""
    only_second: int
    """Images that only the second share counts as a success."""
    p_value: float
    """Exact two-sided probability of a split at least this uneven without a difference (McNemar; over groups,
    by flipping signs)."""
    level: float = 0.95
    """Confidence level of the interval."""
    groups: int = 0
    """Number of groups of images that interval and test are over; 0: the images are independent."""

    @property
    def is_known(self) -> bool:
        """True if there is any common image."""
        return self.n > 0


def estimate_paired_difference(
    first: Marks, second: Marks, groups: Groups, level: float = 0.95
) -> PairedDifference:
    """Estimate the difference of two shares on their common images.

    Independent images: the score interval with a continuity correction. It leaves 0 out when McNemar's exact
    test finds a difference, up to cases at the very level. Images in groups: the shares of images that only
    the first, and only the second, counts are estimated over the groups, each with half of the error
    probability, and subtracted; that is wider than necessary, but covers further groups.

    Args:
        first: Whether each image counts in the first share.
        second: The same for the second share; only images of both are compared.
        groups: Group of each image; empty if the images are independent.
        level: Confidence, in (0, 1).

    Source: Tango 1998, Statistics in Medicine 17, 891-908 (score interval); McNemar 1947; Edwards 1948
    (correction).
    """
    images = [image for image in first if image in second]
    if not images:
        return PairedDifference(
            value=math.nan, low=-1.0, high=1.0, n=0, only_first=0, only_second=0, p_value=1.0, level=level
        )
    test = compare_images(first, second, groups)
    lost = {image: first[image] and not second[image] for image in images}
    won = {image: second[image] and not first[image] for image in images}
    if groups:
        half = (1 + level) / 2
        losses, wins = (estimate_image_share(marks, groups, half) for marks in (lost, won))
        low, high = losses.low - wins.high, losses.high - wins.low
    else:
        low, high = compute_score_interval(test.only_first, test.only_second, test.n, level)
    return PairedDifference(
        value=(test.only_first - test.only_second) / test.n,
        low=round_figure(max(low, -1.0)),
        high=round_figure(min(high, 1.0)),
        n=test.n,
        only_first=test.only_first,
        only_second=test.only_second,
        p_value=test.p_value,
        level=level,
        groups=test.groups,
    )


def compute_score_interval(
    only_first: int, only_second: int, n: int, level: float = 0.95
) -> tuple[float, float]:
    """Compute the ends of the corrected score interval of a paired difference.

    Args:
        only_first: Images that only the first share counts.
        only_second: Images that only the second share counts.
        n: All images, at least 1.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper end, in [-1, 1].

    Raises:
        ValueError: If a count is out of range.
    """
    if min(only_first, only_second) < 0 or n < max(1, only_first + only_second) or not 0 < level < 1:
        raise ValueError("the images of each kind must be 0 or more, and n at least their sum and 1")
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    high = _find_upper_end(only_first, only_second, n, quantile)
    low = -_find_upper_end(only_second, only_first, n, quantile)
    return low, high


def _find_upper_end(only_first: int, only_second: int, n: int, quantile: float) -> float:
    """Return the largest difference that the corrected score test does not reject."""
    low, high = (only_first - only_second) / n, 1.0
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        if _compute_score(only_first, only_second, n, middle) <= quantile:
            low = middle
        else:
            high = middle
    return low


def _compute_score(only_first: int, only_second: int, n: int, difference: float) -> float:
    """Return the corrected score statistic of a true difference at or above the observed one."""
    distance = n * difference - (only_first - only_second) - CONTINUITY_CORRECTION
    if distance <= 0:
        return 0.0
    # the share of images that only the second counts, most likely if the difference is the true one
    b = -(only_first + only_second) + (2 * n - only_first + only_second) * difference
    c = -only_second * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * max(share, -difference, 0.0) + difference * (1 - difference))
    return distance / math.sqrt(variance) if variance > 0 else math.inf
