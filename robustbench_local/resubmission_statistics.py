"""The probability that at least one of N submissions of an adversarial example succeeds.

A model with random answers misclassifies the same image in some draws only, and whoever is turned away may
ask again. From ``k`` successful ones of ``m`` independent draws of an image, ``1 - C(m-k, N) / C(m, N)`` is
an unbiased estimate of its ``1 - (1-p)^N`` for every N up to ``m``. The obvious ``1 - (1 - k/m)^N`` is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robustbench_local.statistics import Estimate, round_figure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

MAX_TRIES: Final = 1000
"""Largest number of submissions for which a probability is stated."""
_WEIGHT_DRAWS, _WEIGHT_SEED = 10_000, 20190616
"""Number and seed of the random weights behind an interval: its ends vary by about 1% of its width."""


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
    successes: Sequence[int], draws: Sequence[int], tries: Sequence[int], level: float = 0.95
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

    Returns:
        One point for each N, in their order; with no images, unknown ones.

    Raises:
        ValueError: If the sequences differ in length, or a count is out of range.

    Source: unbiased estimate: Halmos 1946, doi:10.1214/aoms/1177731020; interval of a mean of values in a
    known range: Gaffke 2005, in the form of Learned-Miller & Thomas 2019, arXiv:1905.06208, eq. 4.
    """
    counted = Counter(zip(successes, draws, strict=True))
    if any(not 0 <= k <= m or m < 1 for k, m in counted):
        raise ValueError("successful draws must lie between 0 and all draws, of which there is at least one")
    if any(not 1 <= number <= MAX_TRIES for number in tries):
        raise ValueError(f"a number of submissions lies between 1 and {MAX_TRIES}, got {list(tries)}")
    if not counted:
        unknown = Estimate(value=float("nan"), low=0.0, high=1.0, n=0, level=level)
        return tuple(ResubmissionPoint(tries=number, success=unknown, is_bound=False) for number in tries)
    groups = sorted(counted)
    weights = _draw_weights([counted[group] for group in groups])
    return tuple(_estimate_point(groups, counted, weights, number, level) for number in tries)


def _estimate_point(
    groups: Sequence[tuple[int, int]],
    counted: Counter[tuple[int, int]],
    weights: FloatArray,
    tries: int,
    level: float,
) -> ResubmissionPoint:
    """Estimate one point from the groups (k, m) of images, their counts and the shared weights."""
    import numpy as np  # noqa: PLC0415 - readers of a run without random models do not wait for it

    n = sum(counted.values())
    low_values = np.array([compute_success_share(k, m, min(tries, m)) for k, m in groups])
    high_values = low_values + [max(tries - m, 0) / m if k == 1 else 0.0 for k, m in groups]
    largest = max(1.0, *(tries / m for _, m in groups))
    value = float(low_values @ [counted[group] for group in groups]) / n
    tail = (1 - level) / 2
    low = np.quantile(weights[:, :-1] @ low_values, tail)
    high = np.quantile(weights @ [*high_values, largest], 1 - tail)
    return ResubmissionPoint(
        tries=tries,
        success=Estimate(
            value=round_figure(value),
            low=round_figure(min(float(low), value)),
            high=round_figure(min(max(float(high), value), 1.0)),
            n=n,
            level=level,
        ),
        is_bound=any(tries > m for _, m in groups),
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


def _draw_weights(counts: Sequence[int]) -> FloatArray:
    """Draw random weights of groups of images and, in the last column, of one further image; sums are 1."""
    import numpy as np  # noqa: PLC0415 - see above

    generator = np.random.RandomState(_WEIGHT_SEED)  # its stream never changes
    gammas = generator.standard_gamma([*counts, 1], size=(_WEIGHT_DRAWS, len(counts) + 1))
    weights: FloatArray = gammas / gammas.sum(axis=1, keepdims=True)
    return weights
