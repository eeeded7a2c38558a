"""Expected costs with their ranges: passes, seconds, money."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

RANGE_QUANTILE = 1.2816
"""Quantile of the normal distribution for a range of 80%."""


@dataclass(frozen=True, kw_only=True)
class CostRange:
    """An expected cost, with a range that covers four in five such estimates."""

    low: float
    """Lower end."""
    value: float
    """Expected value."""
    high: float
    """Upper end."""

    def scale_by(self, factor: float) -> CostRange:
        """Return the range times a factor."""
        return CostRange(low=factor * self.low, value=factor * self.value, high=factor * self.high)

    def shift_by(self, amount: float) -> CostRange:
        """Return the range for so much more, or less if negative; never below 0."""
        low, value, high = (max(end + amount, 0.0) for end in (self.low, self.value, self.high))
        return CostRange(low=low, value=value, high=high)

    def widen_by(self, share: float) -> CostRange:
        """Return the range for a cost that is uncertain by a further share of its value, independently."""
        more = share * self.value
        return CostRange(
            low=max(self.value - math.hypot(self.value - self.low, more), 0.0),
            value=self.value,
            high=self.value + math.hypot(self.high - self.value, more),
        )

    def to_json(self) -> dict[str, float]:
        """Return it as JSON values, rounded to a thousandth."""
        return {"low": round(self.low, 3), "value": round(self.value, 3), "high": round(self.high, 3)}


NO_COST = CostRange(low=0.0, value=0.0, high=0.0)


def add_ranges(ranges: Iterable[tuple[str, CostRange]]) -> CostRange:
    """Add expected costs, each with a name: those of one name err together, others independently.

    The attacks on one model see the same images, so that their estimates err together.
    """
    below: defaultdict[str, float] = defaultdict(float)
    above: defaultdict[str, float] = defaultdict(float)
    total = 0.0
    for name, cost in ranges:
        total += cost.value
        below[name] += cost.value - cost.low
        above[name] += cost.high - cost.value
    low = max(total - math.hypot(*below.values()), 0.0)
    return CostRange(low=low, value=total, high=total + math.hypot(*above.values()))


def compute_share_range(share: float, n: int) -> tuple[float, float]:
    """Return a range for the mean of shares in [0, 1], from the mean of ``n`` of them.

    No distribution in [0, 1] varies more than the one of 0 and 1 with the same mean. So Wilson's interval for
    a binomial share is wide enough.

    Source: Wilson 1927.
    """
    squared = RANGE_QUANTILE**2
    center = (share + squared / (2 * n)) / (1 + squared / n)
    half = RANGE_QUANTILE / (1 + squared / n) * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    return max(center - half, 0.0), min(center + half, 1.0)


def estimate_mean_share(share: float, n: int, population: int) -> CostRange:
    """Estimate the mean share over a population from the mean over ``n`` of its members.

    The range is that of `compute_share_range`, narrowed by the share of the population that is known: it is
    a point where all are.

    Args:
        share: Mean over the sample, in [0, 1].
        n: Size of the sample, from 1.
        population: Size of the population, at least ``n``.
    """
    low, high = compute_share_range(share, n)
    unknown = math.sqrt((population - n) / max(population - 1, 1))
    return CostRange(
        low=share - unknown * max(share - low, 0.0),
        value=share,
        high=share + unknown * max(high - share, 0.0),
    )
