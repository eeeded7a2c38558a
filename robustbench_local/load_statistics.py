"""Statistics of a service under load: quantiles of latency, throughput, and trends over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from statistics import median

from robustbench_local.statistics import Estimate, round_figure

DEPENDENCE_BATCHES = 20
"""Batches of consecutive requests that tell how much the latencies of neighbours are alike."""
TREND_BLOCKS = 10
"""Blocks of a soak, each summed up by its median, so that one outlier or one step is no trend."""
TREND_ALPHA = 0.01
"""Probability that a quantity without a trend is said to have one."""


def estimate_quantile(values: Sequence[float], share: float, level: float = 0.95) -> Estimate:
    """Estimate a quantile, with an interval between two order statistics that needs no distribution.

    Neighbouring latencies are alike: a slow moment delays many requests. So the ranks are those of as many
    independent values as say the same about the quantile (Heidelberger and Lewis 1984): the number of values
    divided by the inflation of the variance of batch means of the marks "at most the quantile".

    Args:
        values: In the order of time, at least 0; infinity for a request that was never answered.
        share: The quantile, in (0, 1).
        level: Confidence, in (0, 1).

    Returns:
        The quantile, which is one of the values; its low end is 0 and its high end infinite where there are
        too few values for one. Unknown without values.

    Source: Hahn and Meeker 1991, section 5.2; Heidelberger and Lewis 1984, Operations Research 32.
    """
    count = len(values)
    if not count:
        return Estimate(value=math.nan, low=0.0, high=math.inf, n=0, level=level)
    ordered = sorted(values)
    value = ordered[max(1, math.ceil(share * count)) - 1]
    inflation = measure_dependence([known <= value for known in values])
    low, high = find_quantile_ranks(math.floor(count / inflation), share, level)
    scale = count / max(1, math.floor(count / inflation))
    low_rank = math.floor(low * scale)
    high_rank = None if high is None else math.ceil(high * scale)
    return Estimate(
        value=value,
        low=ordered[low_rank - 1] if low_rank else 0.0,
        high=math.inf if high_rank is None or high_rank > count else ordered[high_rank - 1],
        n=count,
        level=level,
    )


def find_quantile_ranks(count: int, share: float, level: float) -> tuple[int, int | None]:
    """Find the ranks, from 1, of the order statistics that enclose a quantile of independent values.

    Returns:
        The lower rank, 0 where there are too few values for one; and the upper one, None likewise.
    """
    from scipy.stats import binom  # noqa: PLC0415 - slow to import, and not needed to read a report

    tail = (1 - level) / 2
    low = int(binom.ppf(tail, count, share))
    high = int(binom.ppf(1 - tail, count, share)) + 1
    return max(low, 0), high if high <= count else None


def measure_dependence(marks: Sequence[bool]) -> float:
    """Measure how much the variance of a share is inflated because neighbouring marks are alike.

    Returns:
        The variance of the means of ``DEPENDENCE_BATCHES`` batches over that of independent marks, at least
        1; 1 where there are fewer than two marks for each batch.
    """
    import numpy as np  # noqa: PLC0415 - as above

    size = len(marks) // DEPENDENCE_BATCHES
    share = sum(marks) / len(marks)
    if size < 2 or share in {0.0, 1.0}:
        return 1.0
    means = np.asarray(marks[: size * DEPENDENCE_BATCHES], float).reshape(DEPENDENCE_BATCHES, size).mean(1)
    return max(1.0, float(size * means.var(ddof=1)) / (share * (1 - share)))


def estimate_rate(counts: Sequence[float], seconds: float, level: float = 0.95) -> Estimate:
    """Estimate a rate from the counts in consecutive slices of time, by batch means.

    Args:
        counts: What happened in each slice, such as answered images.
        seconds: Length of a slice.
        level: Confidence, in (0, 1).

    Returns:
        The rate per second. ``n`` is the number of slices; with fewer than two the interval is infinite.

    Source: Law 2015, Simulation Modeling and Analysis, section 9.5.3: Student's t over batch means.
    """
    from scipy.stats import t  # noqa: PLC0415 - as above

    slices = len(counts)
    if not slices:
        return Estimate(value=math.nan, low=0.0, high=math.inf, n=0, level=level)
    rate = sum(counts) / slices / seconds
    if slices < 2:
        return Estimate(value=rate, low=0.0, high=math.inf, n=slices, level=level)
    variance = sum((count / seconds - rate) ** 2 for count in counts) / (slices - 1)
    half = float(t.ppf((1 + level) / 2, slices - 1)) * math.sqrt(variance / slices)
    low, high = max(0.0, rate - half), rate + half
    return Estimate(value=rate, low=round_figure(low), high=round_figure(high), n=slices, level=level)


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The slope of a quantity over time."""

    slope: float
    """Change per second: the median of the slopes of all pairs of blocks."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end of its interval."""
    p_value: float
    """Two-sided p-value of the test for a trend."""
    n: int
    """Number of values that the blocks were made of."""

    @property
    def has_trend(self) -> bool:
        """Whether the quantity rises or falls."""
        return self.p_value <= TREND_ALPHA


def estimate_trend(times: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Estimate the trend of a quantity over time.

    The values are summed up in ``TREND_BLOCKS`` blocks of equal numbers by their medians, because neighbours
    are alike. The slope is that of Theil and Sen, with the interval that the test of Mann and Kendall gives.

    Args:
        times: Seconds, ascending.
        values: The quantity at these times.

    Returns:
        The trend; None with fewer than two values for each block.

    Source: Sen 1968, JASA 63; Mann 1945, Econometrica 13.
    """
    if len(values) < 2 * TREND_BLOCKS:
        return None
    blocks, moments = _compute_block_medians(values), _compute_block_medians(times)
    pairs = list(combinations(zip(moments, blocks, strict=True), 2))
    slopes = sorted((after - before) / (later - earlier) for (earlier, before), (later, after) in pairs)
    score = abs(sum((slope > 0) - (slope < 0) for slope in slopes))
    excluded = (len(slopes) - find_critical_score(TREND_BLOCKS, TREND_ALPHA)) // 2
    slope, low, high = (
        round_figure(end) for end in (median(slopes), slopes[excluded], slopes[-1 - excluded])
    )
    p_value = round_figure(compute_score_tail(TREND_BLOCKS, score))
    return Trend(slope=slope, low=low, high=high, p_value=p_value, n=len(values))


def _compute_block_medians(values: Sequence[float]) -> list[float]:
    edges = [number * len(values) // TREND_BLOCKS for number in range(TREND_BLOCKS + 1)]
    return [median(values[begin:end]) for begin, end in pairwise(edges)]


def compute_score_tail(count: int, score: int) -> float:
    """Compute the probability that Kendall's score of ``count`` values in random order is so far from 0.

    The score is the number of pairs in ascending order less that in descending order; ties count as neither,
    which makes the probability too high at most.

    Args:
        count: Number of values.
        score: Absolute value of the score.

    Source: Kendall 1938, Biometrika 30; the recursion over the number of inversions.
    """
    pairs, orders = count * (count - 1) // 2, _count_orders(count)
    extreme = sum(ways for number, ways in enumerate(orders) if abs(pairs - 2 * number) >= score)
    return extreme / sum(orders)


@cache
def _count_orders(count: int) -> tuple[int, ...]:
    """Count the orders of some values with each number of inversions."""
    orders = [1]
    for size in range(2, count + 1):
        lengths = range(len(orders) + size - 1)
        orders = [sum(orders[max(0, number - size + 1) : number + 1]) for number in lengths]
    return tuple(orders)


@cache
def find_critical_score(count: int, alpha: float) -> int:
    """Find the smallest score whose two-sided probability is at most ``alpha``."""
    pairs = count * (count - 1) // 2
    return next(
        score for score in range(pairs % 2, pairs + 2, 2) if compute_score_tail(count, score) <= alpha
    )
