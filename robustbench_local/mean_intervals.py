"""Intervals of the mean of numbers in a known range, over images or over groups of images.

The interval assumes nothing else of the numbers. Its ends are quantiles of the mean under random weights of
the observations and of one further observation at the end of the range.

Source: Gaffke 2005, in the form of Learned-Miller & Thomas 2019, arXiv:1905.06208, eq. 4. Over groups, groups
have the random weights, and the further group is as large as the largest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_local.statistics import Estimate, round_figure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

_WEIGHT_DRAWS, _WEIGHT_SEED = 10_000, 20190616
"""Number and seed of the random weights behind an interval: its ends vary by about 1% of its width."""


def draw_weights(counts: Sequence[int]) -> FloatArray:
    """Draw random weights of kinds of observations and, in the last column, of one further observation.

    Args:
        counts: Number of observations of each kind, at least 1.

    Returns:
        (draws, kinds + 1); each row has the sum 1.
    """
    import numpy as np  # noqa: PLC0415 - readers of a run that needs no such interval do not wait for it

    generator = np.random.RandomState(_WEIGHT_SEED)  # its stream never changes
    gammas = generator.standard_gamma([*counts, 1], size=(_WEIGHT_DRAWS, len(counts) + 1))
    weights: FloatArray = gammas / gammas.sum(axis=1, keepdims=True)
    return weights


def compute_mean_interval(
    weights: FloatArray,
    sizes: Sequence[int],
    low_totals: FloatArray,
    high_totals: FloatArray,
    *,
    most: float,
    level: float,
) -> tuple[float, float]:
    """Compute the ends of the interval of the mean over the images of all observations.

    Args:
        weights: Those of `draw_weights`, one column for each kind of observation and one more.
        sizes: Images of an observation of each kind: 1, or those of a group.
        low_totals: Sum of the numbers of an observation of each kind, (kinds,); the least that it may be.
        high_totals: The most that it may be, (kinds,).
        most: Upper limit of a number; the lower one is 0.
        level: Confidence, in (0, 1).
    """
    import numpy as np  # noqa: PLC0415 - see above

    largest, tail = max(sizes), (1 - level) / 2
    images = weights @ np.array([*sizes, largest], dtype=np.float64)
    low = np.quantile(weights[:, :-1] @ low_totals / images, tail)
    high = np.quantile(weights @ np.append(high_totals, most * largest) / images, 1 - tail)
    return float(low), float(high)


def estimate_group_mean(
    numbers: Sequence[float], groups: Sequence[str], *, most: float = 1.0, level: float = 0.95
) -> Estimate:
    """Estimate the mean of images' numbers in [0, ``most``], with an interval that covers further groups.

    In simulations of 5 to 40 groups of one to twelve images, alike inside a group or not, the interval covers
    the mean in at least 94% of the cases.

    Args:
        numbers: One for each image.
        groups: Name of the group of each image.
        most: Upper limit of the numbers.
        level: Confidence, in (0, 1).

    Returns:
        The mean over the images, with their number and that of their groups.

    Raises:
        ValueError: If the sequences differ in length, or a number is out of range.
    """
    import numpy as np  # noqa: PLC0415 - see above

    totals: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for number, group in zip(numbers, groups, strict=True):
        if not 0 <= number <= most:
            raise ValueError(f"the numbers must lie between 0 and {most}, got {number}")
        totals[group] = totals.get(group, 0.0) + number
        sizes[group] = sizes.get(group, 0) + 1
    if not totals:
        return Estimate(value=float("nan"), low=0.0, high=1.0, n=0, level=level)
    value = sum(totals.values()) / len(numbers)
    sums = np.array(list(totals.values()))
    low, high = compute_mean_interval(
        draw_weights([1] * len(sums)), list(sizes.values()), sums, sums, most=most, level=level
    )
    return Estimate(
        value=round_figure(value),
        low=round_figure(min(low, value)),
        high=round_figure(min(max(high, value), most)),
        n=len(numbers),
        level=level,
        groups=len(sums),
    )
