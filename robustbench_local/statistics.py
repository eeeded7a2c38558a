"""Uncertainty of the figures: exact intervals for shares, medians and means.

The functions import numpy and scipy when they compute: commands that only read or list do not wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.interval_table import look_up_ends

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FIGURE_DIGITS = 10
"""Significant digits of a computed figure: CPUs with different vector instructions differ in the sixteenth
digit, and round differently to ten digits about once in a million figures."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share of ``n`` images with its confidence interval.

    With no images nothing is known: ``value`` is NaN and the interval is all of [0, 1].
    """

    value: float
    """The share, in [0, 1]; NaN when ``n`` is 0."""
    low: float
    """Lower end of the interval, in [0, 1]."""
    high: float
    """Upper end of the interval, in [0, 1]."""
    n: int
    """Number of images: the denominator."""
    level: float = 0.95
    """Confidence level: the probability that such an interval contains the true share."""
    groups: int = 0
    """Number of groups of images, such as tracks, that the interval is over; 0: images are independent."""
    phases: tuple[int, ...] = ()
    """Images of each phase where later attacks had a random part of the images; empty: all had the same."""

    def __str__(self) -> str:
        """Return the share, its interval and its denominator; ``repr`` has every digit."""
        if not self.is_known:
            return "unknown, n=0"
        groups = f" in {format_count(self.groups, 'group')}" if self.groups else ""
        phases = f", all attacks on {self.phases[-1]:,}" if self.phases else ""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, n={self.n}{groups}{phases})"

    @property
    def is_known(self) -> bool:
        """True if there was any image to count."""
        return self.n > 0

    @property
    def count(self) -> int:
        """The numerator."""
        return round(self.value * self.n) if self.is_known else 0

    def to_json(self, reason: str = "no image to count") -> dict[str, Any]:
        """Return the estimate for JSON, which has no NaN: without a value, ``null`` and a ``reason``."""
        if not self.is_known:
            return {"value": None, "low": None, "high": None, "n": 0, "reason": reason}
        groups = {"groups": self.groups} if self.groups else {}
        phases = {"phases": list(self.phases)} if self.phases else {}
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, **groups, **phases}


ShareEstimator = Callable[[float], Estimate]
"""Confidence level -> the estimate of one share with its two-sided interval at that level."""


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """Quartiles of ``n`` distances, with an interval for the median.

    Infinity stands for a distance beyond the largest radius tried. With no distances all are NaN.
    """

    lower: float
    """At least a quarter of the distances are this or less."""
    median: float
    """At least half are this or less."""
    upper: float
    """At least three quarters are this or less."""
    low: float
    """Lower end of the median's interval; 0 where there are too few distances for one."""
    high: float
    """Upper end of the median's interval; infinite where there are too few distances for one."""
    n: int
    """Number of distances."""

    @property
    def is_known(self) -> bool:
        """True if there was any distance."""
        return self.n > 0


def round_figure(number: float) -> float:
    """Return a computed figure without the digits in which CPUs differ, so that reports agree to the byte.

    Args:
        number: An end of an interval, a p-value or a mean; infinity and NaN are returned unchanged.

    Returns:
        The number with ``FIGURE_DIGITS`` significant digits.
    """
    return float(f"{number:.{FIGURE_DIGITS}g}")


def widen_interval(estimate: Estimate, other: Estimate) -> Estimate:
    """Widen an estimate's interval by that of another: one over groups is never shorter than over images."""
    return replace(estimate, low=min(estimate.low, other.low), high=max(estimate.high, other.high))


def compute_clopper_pearson(k: int, n: int, level: float = 0.95) -> Estimate:
    """Compute the exact interval of a share: it covers at least ``level``, whatever the true share.

    Args:
        k: Images counted, 0 to ``n``.
        n: All images.
        level: Confidence, in (0, 1).

    Raises:
        ValueError: If ``k``, ``n`` or ``level`` is out of range.

    Source: Clopper and Pearson 1934, inverted binomial test through the beta distribution.
    """
    _check_counts(k, n, level)
    if n == 0:
        return _build_unknown(level)
    low, high = look_up_ends((k, n, level), lambda: _invert_binomial_test(k, n, level))
    return Estimate(value=k / n, low=low, high=high, n=n, level=level)


def estimate_partial_share(common: ShareEstimator, every: ShareEstimator, level: float = 0.95) -> Estimate:
    """Estimate robust accuracy under several attacks, each of which was run on only some of the images.

    An image that one attack succeeded on is not robust, whether or not the others were run on it. So the
    images that all attacks were run on give an unbiased share. All images together give a share that is never
    too low, but can be too high: an image without a successful attack might fall to an attack that was not
    run on it. The value is the lower of the two shares, with its own number of images. The lower end is the
    lower of their two lower ends. The upper end is the lower of their two upper ends, each at half the error
    probability, since either may err.

    Args:
        common: The share of robust images among those that every attack was run on. Limits on an attack's
            images must not have been chosen by the results of other attacks.
        every: The same among all images that any attack was run on, including the common ones.
        level: Confidence, in (0, 1).

    Returns:
        An estimate whose ``n`` is that of the stated share. Without common images its lower end is 0.

    """
    whole, shared = every(level), common(level)
    if not shared.is_known:
        return replace(whole, low=0.0) if whole.is_known else whole
    half = (1 + level) / 2
    high = min(common(half).high, every(half).high)
    stated = min(shared, whole, key=lambda estimate: estimate.value)
    return replace(stated, low=min(shared.low, whole.low), high=high)


def invert_share(estimate: Estimate) -> Estimate:
    """Return the estimate of the share of all other images."""
    return replace(estimate, value=1 - estimate.value, low=1 - estimate.high, high=1 - estimate.low)


def compute_lower_bounds(k: npt.ArrayLike, n: int, alpha: float) -> npt.NDArray[np.float64]:
    """Compute exact one-sided lower bounds: each exceeds its share with probability at most ``alpha``.

    Args:
        k: Counts, 0 to ``n``, any shape.
        n: Trials behind each count, at least 1.
        alpha: Probability that a bound is too high, in (0, 1).

    Returns:
        float64, in the shape of ``k``; 0 where nothing was counted.

    Source: Clopper and Pearson 1934, one side.
    """
    import numpy as np  # noqa: PLC0415 - see the module
    from scipy.special import betaincinv  # noqa: PLC0415 - see the module

    counts = np.asarray(k, dtype=np.float64)
    return np.where(counts > 0, betaincinv(np.maximum(counts, 1), n - counts + 1, alpha), 0.0)


def compute_wilson(k: int, n: int, level: float = 0.95) -> Estimate:
    """Compute the score interval of a share: shorter than Clopper-Pearson, covers ``level`` only on average.

    Args:
        k: Images counted, 0 to ``n``.
        n: All images.
        level: Confidence, in (0, 1).

    Raises:
        ValueError: If ``k``, ``n`` or ``level`` is out of range.

    Source: Wilson 1927, without continuity correction.
    """
    _check_counts(k, n, level)
    if n == 0:
        return _build_unknown(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = k / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, center - half)
    high = 1.0 if k == n else min(1.0, center + half)
    return Estimate(value=share, low=round_figure(low), high=round_figure(high), n=n, level=level)


def compute_quartiles(distances: Sequence[float], level: float = 0.95) -> Quartiles:
    """Compute quartiles that are observed distances, and an exact interval for the median.

    Args:
        distances: At least 0; infinity where the distance is beyond the largest radius tried.
        level: Confidence of the interval, in (0, 1).

    Source: the interval between two order statistics, which holds for every distribution (Thompson 1936).
    """
    count = len(distances)
    if not count:
        return Quartiles(lower=math.nan, median=math.nan, upper=math.nan, low=math.nan, high=math.nan, n=0)
    import numpy as np  # noqa: PLC0415 - see the module
    from scipy.special import betainc  # noqa: PLC0415 - see the module

    ordered = sorted(distances)
    lower, median, upper = (ordered[math.ceil(share * count) - 1] for share in (0.25, 0.5, 0.75))
    ranks = np.arange(1, count + 1)
    # P(fewer than rank of the distances lie below the true median), as an incomplete beta function
    excluded = int(np.sum(betainc(count - ranks + 1, ranks, 0.5) <= (1 - level) / 2))
    low, high = (ordered[excluded - 1], ordered[count - excluded]) if excluded else (0.0, math.inf)
    return Quartiles(lower=lower, median=median, upper=upper, low=low, high=high, n=count)


def estimate_bounded_mean(values: Sequence[float], *, most: float = 1.0, level: float = 0.95) -> Estimate:
    """Estimate the mean of numbers in [0, ``most``], with an interval that needs no further assumption.

    The true distribution function lies within a band around the observed one (Dvoretzky, Kiefer and
    Wolfowitz). The ends of the interval are the smallest and the largest mean within the band.

    Args:
        values: The numbers.
        most: Upper limit of the numbers.
        level: Confidence, in (0, 1).

    Raises:
        ValueError: If a value is out of range.

    Source: Anderson 1969, Stanford technical report 1; the constant of the band from Massart 1990.
    """
    import numpy as np  # noqa: PLC0415 - see the module

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        return _build_unknown(level)
    if not (ordered[0] >= 0 and ordered[-1] <= most):
        raise ValueError(f"values must lie between 0 and {most}")
    band = min(1.0, math.sqrt(math.log(2 / (1 - level)) / (2 * n)))
    # the outermost share `band` of the observations is replaced by the opposite end of the range
    edges = np.arange(n + 1) / n
    low_weights = np.clip(1 - band - edges[:-1], 0, 1 / n)
    high_weights = np.clip(edges[1:] - band, 0, 1 / n)
    low = round_figure(float(low_weights @ ordered))
    high = round_figure(min(float(high_weights @ ordered) + band * most, most))
    return Estimate(value=round_figure(float(ordered.mean())), low=low, high=high, n=n, level=level)


def compute_worst_case(verdicts: Sequence[Sequence[bool]]) -> list[bool]:
    """Mark the images that are robust to every attack, the worst case over attacks (trust invariant V6).

    Args:
        verdicts: One sequence per attack, true where the image is robust to it; all over the same images in
            the same order.

    Returns:
        One entry per image, true only if the image is robust to every attack. There are never more true
        entries than any single attack has.

    Raises:
        ValueError: If the sequences differ in length, or there are none.
    """
    if not verdicts:
        raise ValueError("the worst case needs at least one attack")
    return [all(row) for row in zip(*verdicts, strict=True)]


@lru_cache(maxsize=4096)  # a report states the same counts in several sections
def _invert_binomial_test(k: int, n: int, level: float) -> tuple[float, float]:
    """Return the ends of the Clopper-Pearson interval, rounded."""
    from scipy.special import betaincinv  # noqa: PLC0415 - see the module

    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return round_figure(low), round_figure(high)


def _check_counts(k: int, n: int, level: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"the count must lie between 0 and n, got {k} of {n}")
    if not 0 < level < 1:
        raise ValueError(f"the confidence level must lie between 0 and 1, got {level}")


def _build_unknown(level: float) -> Estimate:
    return Estimate(value=math.nan, low=0.0, high=1.0, n=0, level=level)
