"""Intervals of a share that may be looked at after every image, and acted on.

An interval for a fixed number of images covers the truth with 95% if that number was fixed in advance.
Whoever looks after each image and stops as soon as the interval lies where it should, errs far more often. A
confidence sequence covers the truth at all times together with 95%, so that a run may stop whenever it
likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache

from robustbench_local.statistics import Estimate, round_figure

BET_WEIGHT = 5.0
"""Images that the tested share counts for when the bettor predicts the next image.

A small weight bets on what was seen, a large one stays near the tested share. In simulations of 20 to 500 of
1,000 images its intervals are at most 10% or 0.04 wider than the shortest of the weights 2 to 80.
"""
_HALVINGS = 40
"""Halvings of [0, 1] in the search for an end of the interval: to 1e-12."""


class ConfidenceSequence:
    """An anytime-valid interval of the share of images that count, updated image by image.

    Every share is tested by a bettor who starts with 1 and bets on the next image, at odds that are fair if
    that share is the true one. Getting rich at fair odds is unlikely: with probability ``level`` the wealth
    on the true share stays below 1 / (1 - ``level``) for ever (Ville's inequality), and the shares whose
    wealth has stayed below are the interval.

    The bettor predicts the next image with the share seen so far, where the tested share counts for
    ``BET_WEIGHT`` images. The wealth on a share is then the ratio of two probabilities in closed form: that
    of the outcomes under a beta-binomial distribution around the share, and that under the share itself. Its
    logarithm is convex in the share, so that the shares left over are an interval. Of a finite population
    the tested numbers are whole, and the odds follow from what is left of it.

    For outcomes that are 0 or 1 these bets are better than two usual choices. Over shares from 0 to 0.5 and
    20 to 500 of 1,000 images, the interval has 0.40 to 1.04 times the width of the hedged capital process of
    the same source with its predictable bets (0.48 to 0.96 with 100 images), and 0.44 to 1.03 times that of
    the prior-posterior ratio with the same beta(1/2, 1/2) prior for every share. A test compares them.

    The interval depends only on the outcomes and their order, not on how they are divided into updates. It
    is the intersection of the intervals at all times so far. If that is ever empty, which has probability 1
    - ``level`` at most, the earlier intervals are dropped and the intersection starts anew. It also contains
    the share seen so far, and all images of a finite population leave that share alone.

    The outcomes must come in random order: of a finite population each order equally likely, otherwise
    independently. ``data.image_order`` gives one.

    Args:
        population: Number of all images, whose share is estimated; None: infinitely many.
        level: Confidence, in (0, 1).
        weight: Images that the tested share counts for, above 0; fixed before the first image. Small weights
            give shorter intervals where the share is near 0 or 1.

    Raises:
        ValueError: If ``population`` or ``level`` is out of range.

    Source: Waudby-Smith and Ramdas 2024, Estimating means of bounded random variables by betting, JRSS-B 86,
    1-27, section 5 for sampling without replacement; for the closed form, Waudby-Smith and Ramdas 2020,
    Confidence sequences for sampling without replacement, NeurIPS 33.
    """

    def __init__(
        self, population: int | None = None, level: float = 0.95, weight: float = BET_WEIGHT
    ) -> None:
        if population is not None and population < 1:
            raise ValueError(f"the population must have at least 1 image, got {population}")
        if not 0 < level < 1:
            raise ValueError(f"the confidence level must lie between 0 and 1, got {level}")
        self.population = population
        """Number of all images; None: infinitely many."""
        self.level = level
        """Confidence level."""
        self.weight = weight
        """Images that the tested share counts for."""
        self.n = 0
        """Images seen."""
        self.count = 0
        """Images seen that count."""
        self._low, self._high = 0.0, 1.0

    def update(self, outcomes: Iterable[bool | int]) -> None:
        """Add outcomes in the order of the images.

        Args:
            outcomes: Whether each image counts, true or 1, or not, false or 0.

        Raises:
            ValueError: If an outcome is neither 0 nor 1, or there are more than the population has.
        """
        for outcome in outcomes:
            if outcome not in (0, 1):
                raise ValueError(f"an outcome is 0 or 1, got {outcome!r}")
            if self.n == self.population:
                raise ValueError(f"more outcomes than the {self.population} images of the population")
            self.n += 1
            self.count += int(outcome)
            low, high = compute_anytime_ends(self.count, self.n, self.population, self.level, self.weight)
            is_settled = self.n == self.population
            if is_settled or low > self._high or high < self._low:
                self._low, self._high = low, high
            else:
                self._low, self._high = max(low, self._low), min(high, self._high)

    @property
    def interval(self) -> Estimate:
        """The share seen so far and its interval; unknown, over all of [0, 1], before the first image."""
        value = self.count / self.n if self.n else math.nan
        low, high = round_figure(self._low), round_figure(self._high)
        if self.n:
            low, high = min(low, value), max(high, value)
        return Estimate(value=value, low=low, high=high, n=self.n, level=self.level)


def estimate_ordered_share(
    outcomes: Iterable[bool | int],
    population: int | None = None,
    level: float = 0.95,
    weight: float = BET_WEIGHT,
) -> Estimate:
    """Estimate a share from ordered outcomes, with an interval that holds whenever they were stopped.

    Args:
        outcomes: Whether each image counts, in the random order in which they were seen.
        population: Number of all images; None: infinitely many.
        level: Confidence, in (0, 1).
        weight: As in `ConfidenceSequence`.

    Raises:
        ValueError: As in `ConfidenceSequence`.
    """
    sequence = ConfidenceSequence(population, level, weight)
    sequence.update(outcomes)
    return sequence.interval


@lru_cache(maxsize=65536)  # simulations and the same run judged again meet the same counts
def compute_anytime_ends(
    count: int, n: int, population: int | None, level: float, weight: float = BET_WEIGHT
) -> tuple[float, float]:
    """Compute the shares that a `ConfidenceSequence` does not reject at one time, without earlier times.

    Args:
        count: Images seen that count, 0 to ``n``.
        n: Images seen.
        population: Number of all images, at least ``n``; None: infinitely many.
        level: Confidence, in (0, 1).
        weight: Images that a tested share counts for.

    Returns:
        Lowest and highest share; of a finite population those that ``n`` images leave possible.
    """
    limit = -math.log1p(-level)
    if population is None:
        share = count / n if n else 0.5

        def is_kept(tested: float) -> bool:
            return compute_log_wealth(count, n, tested, weight) < limit

        low = 0.0 if is_kept(0.0) else _find_end(is_kept, share, 0.0)
        return low, 1.0 if is_kept(1.0) else _find_end(is_kept, share, 1.0)
    lowest, highest = compute_anytime_totals(count, n, population, level, weight)
    return lowest / population, highest / population


@lru_cache(maxsize=65536)
def compute_anytime_totals(
    count: int, n: int, population: int, level: float, weight: float = BET_WEIGHT
) -> tuple[int, int]:
    """Compute the numbers of images that count, in a finite population, that are not rejected at one time.

    Args:
        count: Images seen that count, 0 to ``n``.
        n: Images seen, at most ``population``.
        population: Number of all images.
        level: Confidence, in (0, 1).
        weight: Images that a tested number counts for.

    Returns:
        Lowest and highest number, both among those that ``n`` images leave possible.
    """
    limit = -math.log1p(-level)
    # where the observed counts are most probable, the wealth is at most 1
    best = min(max(count * (population + 1) // n if n else population // 2, count), population - (n - count))

    def is_kept(total: int) -> bool:
        return compute_log_wealth_without_replacement(count, n, total, population, weight) < limit

    return _find_last_total(is_kept, best, count), _find_last_total(is_kept, best, population - (n - count))


def compute_log_wealth(count: int, n: int, share: float, weight: float = BET_WEIGHT) -> float:
    """Compute the logarithm of the wealth that betting against a share has made from independent images.

    Args:
        count: Images seen that count, 0 to ``n``.
        n: Images seen.
        share: The tested share, in [0, 1].
        weight: Images that it counts for.

    Returns:
        The logarithm of the wealth; infinite if the outcomes are impossible under the share.
    """
    if (share == 0 and count) or (share == 1 and count < n):
        return math.inf
    if share in (0, 1):
        return 0.0
    likelihood = count * math.log(share) + (n - count) * math.log1p(-share)
    return _compute_log_mixture(count, n, share, weight) - likelihood


def compute_log_wealth_without_replacement(
    count: int, n: int, total: int, population: int, weight: float = BET_WEIGHT
) -> float:
    """Compute the logarithm of the wealth that betting against a total has made.

    Args:
        count: Images seen that count, 0 to ``n``.
        n: Images seen, at most ``population``.
        total: The tested number of images that count, in the whole population.
        population: Number of all images.
        weight: Images that the tested share counts for.

    Returns:
        The logarithm of the wealth; infinite if the outcomes are impossible under the total.
    """
    others, failures = population - total, n - count
    if total < count or others < failures:
        return math.inf
    likelihood = (
        *(math.lgamma(total + 1), -math.lgamma(total - count + 1)),
        *(math.lgamma(others + 1), -math.lgamma(others - failures + 1)),
        *(math.lgamma(population - n + 1), -math.lgamma(population + 1)),
    )
    if total in (0, population):
        return 0.0
    return _compute_log_mixture(count, n, total / population, weight) - math.fsum(likelihood)


def _compute_log_mixture(count: int, n: int, share: float, weight: float) -> float:
    """Compute the log probability of ordered outcomes if their share has a beta distribution around one."""
    hits, misses = weight * share, weight * (1 - share)
    parts = (
        *(math.lgamma(hits + count), -math.lgamma(hits)),
        *(math.lgamma(misses + n - count), -math.lgamma(misses)),
        *(math.lgamma(weight), -math.lgamma(weight + n)),
    )
    return math.fsum(parts)


def _find_end(is_kept: Callable[[float], bool], kept: float, rejected: float) -> float:
    """Find the end of an interval between a share that is kept and a rejected one; the latter side."""
    for _ in range(_HALVINGS):
        middle = (kept + rejected) / 2
        kept, rejected = (middle, rejected) if is_kept(middle) else (kept, middle)
    return rejected


def _find_last_total(is_kept: Callable[[int], bool], kept: int, end: int) -> int:
    """Find the last total on the way from one that is kept to ``end`` that is kept as well."""
    if is_kept(end):
        return end
    rejected = end
    while abs(kept - rejected) > 1:
        middle = (kept + rejected) // 2
        kept, rejected = (middle, rejected) if is_kept(middle) else (kept, middle)
    return kept
