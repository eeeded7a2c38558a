"""The difference of two shares over different images, which says less than one over the same images."""

from __future__ import annotations

import math

from robustbench_local.statistics import Estimate, round_figure


def estimate_unpaired_difference(first: Estimate, second: Estimate) -> tuple[float, float, float]:
    """Estimate the difference of two shares that were measured on different images.

    Args:
        first: One share with its interval.
        second: The other share, with an interval of the same level.

    Returns:
        The first share less the second, and the lower and upper end of its interval, in [-1, 1]; NaN, -1 and
        1 if one of the shares is unknown.

    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10: the distances of the intervals' ends
    from their shares, added as squares; here with exact intervals, which makes it wider.
    """
    if not (first.is_known and second.is_known):
        return math.nan, -1.0, 1.0
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return value, round_figure(max(-1.0, value - below)), round_figure(min(1.0, value + above))
