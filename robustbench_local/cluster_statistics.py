"""Shares of observations that come in clusters: views of one sign, frames of one track.

Observations of one object are alike. An interval that counts each of them as independent covers further
observations of the same objects, and is too short for further objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_local.statistics import Estimate, compute_clopper_pearson, round_figure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

MIN_CLUSTERS = 2
"""Smallest number of clusters whose spread can be measured; with fewer nothing is known of other objects."""
_LOGIT_RANGE, _SHARE_STEPS = 9.0, 401
"""The grid of shares: from exp(-9) to 1 - exp(-9), equally spaced in log odds."""
_CORRELATIONS = (
    1e-5,
    *(0.003 * (0.5 / 0.003) ** (step / 19) for step in range(20)),
    *(1 - 0.5 * (0.002 / 0.5) ** (step / 15) for step in range(16)),
)
"""The grid of correlations between two observations of one object: dense near both ends."""


def estimate_clustered_share(successes: Sequence[int], sizes: Sequence[int], level: float = 0.95) -> Estimate:
    """Estimate a share over clusters, with an interval that covers further clusters.

    The number of successes in a cluster is beta-binomial: each object has a share of its own, drawn from a
    beta distribution. The interval holds the means of that distribution that the profile likelihood ratio
    does not reject; its limit is the square of Student's t with as many degrees of freedom as clusters, which
    accounts for the few clusters that measure the spread. In simulations of 3 to 60 clusters with means from
    0.03 to 0.95 and correlations from 0 to 0.97 it covers the mean in 92% to 99% of the cases.

    Args:
        successes: Successes of each cluster.
        sizes: Observations of each cluster; empty clusters do not count.
        level: Confidence, in (0, 1).

    Returns:
        The share of all observations, whose ``n`` counts observations. With fewer than two clusters the
        interval is [0, 1].

    Raises:
        ValueError: If the sequences differ in length, or a count is out of range.

    Source: beta-binomial model, Williams 1975, doi:10.2307/2529820; the degrees of freedom were chosen by
    simulation.
    """
    clusters = [(k, n) for k, n in zip(successes, sizes, strict=True) if n]
    if any(not 0 <= k <= n for k, n in clusters):
        raise ValueError("the successes of a cluster must lie between 0 and its size")
    k, n = sum(k for k, _ in clusters), sum(n for _, n in clusters)
    pooled = compute_clopper_pearson(k, n, level)
    if not pooled.is_known:
        return pooled
    low, high = (0.0, 1.0) if len(clusters) < MIN_CLUSTERS else _compute_profile_interval(clusters, level)
    return Estimate(
        value=pooled.value,
        low=0.0 if k == 0 else round_figure(min(low, pooled.low)),
        high=1.0 if k == n else round_figure(max(high, pooled.high)),
        n=n,
        level=level,
    )


def _compute_profile_interval(clusters: Sequence[tuple[int, int]], level: float) -> tuple[float, float]:
    """Return the interval by the profile likelihood of the mean; at least two clusters."""
    import numpy as np  # noqa: PLC0415 - see robustbench_local.statistics
    from scipy.special import stdtrit  # noqa: PLC0415 - see robustbench_local.statistics

    shares = 1 / (1 + np.exp(-np.linspace(-_LOGIT_RANGE, _LOGIT_RANGE, _SHARE_STEPS)))
    profile = _compute_log_likelihood(clusters, shares).max(axis=1)
    limit = float(stdtrit(len(clusters), (1 + level) / 2)) ** 2
    kept = np.flatnonzero(2 * (profile.max() - profile) <= limit)
    # one step of the grid further out on each side: the ends lie between two shares of the grid
    low, high = max(int(kept[0]) - 1, 0), min(int(kept[-1]) + 1, _SHARE_STEPS - 1)
    return float(shares[low]), float(shares[high])


def _compute_log_likelihood(clusters: Sequence[tuple[int, int]], shares: FloatArray) -> FloatArray:
    """Return the beta-binomial log likelihood up to a constant, (shares, correlations)."""
    import numpy as np  # noqa: PLC0415 - see robustbench_local.statistics
    from scipy.special import betaln  # noqa: PLC0415 - see robustbench_local.statistics

    correlations = np.asarray(_CORRELATIONS)
    scale = (1 - correlations) / correlations
    first, second = shares[:, None] * scale, (1 - shares)[:, None] * scale
    start = betaln(first, second)
    total: FloatArray = np.zeros_like(first)
    for (k, n), times in Counter(clusters).items():
        total = total + times * (betaln(first + k, second + n - k) - start)
    return total
