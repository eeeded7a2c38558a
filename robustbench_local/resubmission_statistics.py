"""The probability that at least one of N submissions of an adversarial example succeeds.

A model with random answers misclassifies the same image in some draws only, and whoever is turned away may
ask again. From ``k`` successful ones of ``m`` independent draws of an image, ``1 - C(m-k, N) / C(m, N)`` is
an unbiased estimate of its ``1 - (1-p)^N`` for every N up to ``m``. The obvious ``1 - (1 - k/m)^N`` is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from robustbench_local.mean_intervals import compute_mean_interval, draw_weights
from robustbench_local.statistics import Estimate, round_figure, widen_interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

MAX_TRIES: Final = 1000
"""Largest number of submissions for which a probability is stated."""

_Counts = tuple[int, int]
"""Successful draws and draws of an image."""
_Cluster = tuple[_Counts, ...]
"""The counts of the images of a group."""


@dataclass(frozen=True, kw_only=True)
class ResubmissionPoint:
    """The probability of a success in N submissions, as a mean over images."""

    tries: int
    """N."""
    success: Estimate
    """The probability with its 95% interval. If it is a bound: ``value`` belongs to as many submissions as
    there are draws, and the interval contains what may follow."""
    is_bound: bool
    """Whether N exceeds the number of draws, so that only bounds are known."""


def estimate_resubmission(
    successes: Sequence[int],
    draws: Sequence[int],
    tries: Sequence[int],
    level: float = 0.95,
    groups: Sequence[str] | None = None,
) -> tuple[ResubmissionPoint, ...]:
    """Estimate the probability of at least one success in N submissions, as a mean over images.

    Beyond the number of draws the lower end is that of as many submissions as draws. The upper end follows
    from concavity in N: each further submission adds at most what the last one did, which images with exactly
    one success measure. An interval covers the mean over the images' population. In simulations of 30 to 500
    images, with 20 to 100 draws and N from 1 to 1000, it covers in at least 93% of the cases
    (tests/test_resubmission_statistics.py).

    Args:
        successes: Successful draws of each image.
        draws: All draws of each image, at least 1.
        tries: The numbers N, each from 1 to `MAX_TRIES`.
        level: Confidence, in (0, 1).
        groups: Name of the group of each image, whose intervals cover further groups; None if the images are
            independent.

    Returns:
        One point for each N, in their order; with no images, unknown ones.

    Raises:
        ValueError: If the sequences differ in length, or a count is out of range.

    Source: unbiased estimate: Halmos 1946, doi:10.1214/aoms/1177731020; the interval is that of
    `mean_intervals`.
    """
    images = list(zip(successes, draws, strict=True))
    if any(not 0 <= k <= m or m < 1 for k, m in images):
        raise ValueError("successful draws must lie between 0 and all draws, of which there is at least one")
    if any(not 1 <= number <= MAX_TRIES for number in tries):
        raise ValueError(f"a number of submissions lies between 1 and {MAX_TRIES}, got {list(tries)}")
    if not images:
        unknown = Estimate(value=float("nan"), low=0.0, high=1.0, n=0, level=level)
        return tuple(ResubmissionPoint(tries=number, success=unknown, is_bound=False) for number in tries)
    clusters = Counter(_collect_clusters(images, groups))
    kinds = sorted(clusters)
    weights = draw_weights([clusters[kind] for kind in kinds])
    points = (_estimate_point(kinds, clusters, weights, number, level) for number in tries)
    if groups is None:
        return tuple(points)
    pooled = estimate_resubmission(successes, draws, tries, level)
    return tuple(
        replace(
            point,
            success=widen_interval(replace(point.success, groups=clusters.total()), independent.success),
        )
        for point, independent in zip(points, pooled, strict=True)
    )


def _collect_clusters(images: Sequence[_Counts], groups: Sequence[str] | None) -> list[_Cluster]:
    """Collect the counts of the images of each group; without groups, each image is one of its own."""
    if groups is None:
        return [(image,) for image in images]
    clusters: dict[str, list[_Counts]] = {}
    for image, group in zip(images, groups, strict=True):
        clusters.setdefault(group, []).append(image)
    return [tuple(sorted(members)) for members in clusters.values()]


def _estimate_point(
    kinds: Sequence[_Cluster],
    counted: Counter[_Cluster],
    weights: FloatArray,
    tries: int,
    level: float,
) -> ResubmissionPoint:
    """Estimate one point from the kinds of clusters, their counts and the shared weights."""
    import numpy as np  # noqa: PLC0415 - readers of a run without random models do not wait for it

    images = {image for kind in kinds for image in kind}
    low_values = {(k, m): compute_success_share(k, m, min(tries, m)) for k, m in images}
    high_values = {(k, m): low_values[k, m] + (max(tries - m, 0) / m if k == 1 else 0.0) for k, m in images}
    low_totals, high_totals = (
        np.array([sum(values[image] for image in kind) for kind in kinds])
        for values in (low_values, high_values)
    )
    sizes = [len(kind) for kind in kinds]
    n = sum(len(kind) * counted[kind] for kind in kinds)
    value = float(low_totals @ [counted[kind] for kind in kinds]) / n
    most = max(1.0, *(tries / m for _, m in images))
    low, high = compute_mean_interval(weights, sizes, low_totals, high_totals, most=most, level=level)
    return ResubmissionPoint(
        tries=tries,
        success=Estimate(
            value=round_figure(value),
            low=round_figure(min(low, value)),
            high=round_figure(min(max(high, value), 1.0)),
            n=n,
            level=level,
        ),
        is_bound=any(tries > m for _, m in images),
    )


def compute_success_share(successes: int, draws: int, tries: int) -> float:
    """Compute the share of the subsets of ``tries`` draws that hold at least one success.

    Args:
        successes: Successful draws.
        draws: All draws.
        tries: Size of a subset, from 1 to ``draws``.
    """
    failing = 1.0
    for drawn in range(tries):
        failing *= max(draws - successes - drawn, 0) / (draws - drawn)
    return 1.0 - failing
