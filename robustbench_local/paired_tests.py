"""Paired tests: is one model correct more often than another on the same images?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustbench_local.statistics import round_figure


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same images: an exact test on the images where their correctness differs.

    McNemar's test; over groups of images, its form by flipping the signs of groups.
    """

    n: int
    """Images that both models classified."""
    only_first: int
    """Images that only the first model classified correctly."""
    only_second: int
    """Images that only the second model classified correctly."""
    p_value: float
    """Two-sided probability of a split at least this uneven if neither model is better."""
    adjusted_p_value: float | None = None
    """The same, adjusted for the other comparisons of the family by Holm; None for a single comparison."""
    family_size: int = 1
    """Number of comparisons in the family."""
    groups: int = 0
    """Number of groups of images that the test is over; 0: the images are independent."""

    def is_significant(self, alpha: float = 0.05) -> bool:
        """Return True if the difference is significant at ``alpha`` within its family; otherwise a tie."""
        return (self.p_value if self.adjusted_p_value is None else self.adjusted_p_value) < alpha

    def has_enough_images(self, alpha: float = 0.05) -> bool:
        """Return True if some split of the images would be significant; if none, a tie says nothing."""
        return 0.5 ** ((self.groups or self.n) - 1) < alpha / self.family_size if self.n else False


def compute_mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Run McNemar's exact test: is one model correct more often than the other on the same images?

    Args:
        first: Correctness of the first model, one entry per image.
        second: Correctness of the second model on the same images in the same order.

    Raises:
        ValueError: If the two do not have the same length.

    Source: McNemar 1947; exact binomial form, two-sided by doubling the smaller tail.
    """
    pairs = Counter(zip(first, second, strict=True))
    only_first, only_second = pairs[True, False], pairs[False, True]
    differing, fewer = only_first + only_second, min(only_first, only_second)
    # P(X <= fewer) for X ~ Binomial(differing, 1/2), as a regularized incomplete beta function.
    from scipy.special import betainc  # noqa: PLC0415 - commands that only read do not wait for scipy

    tail = float(betainc(differing - fewer, fewer + 1, 0.5)) if differing else 1.0
    p_value = round_figure(min(1.0, 2 * tail))
    return Comparison(n=pairs.total(), only_first=only_first, only_second=only_second, p_value=p_value)


def adjust_by_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adjust the p-values of a family of comparisons for their number.

    Among the comparisons that are then significant at ``alpha``, the probability that any two models in truth
    do not differ is at most ``alpha``, however the comparisons depend on each other.

    Args:
        comparisons: All comparisons of the family, also those that are not reported.

    Returns:
        The comparisons in the same order, with adjusted p-values of at most 1.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    count = len(comparisons)
    order = sorted(range(count), key=lambda index: comparisons[index].p_value)
    adjusted, largest = list(comparisons), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (count - rank) * comparisons[index].p_value))
        adjusted[index] = replace(
            comparisons[index], adjusted_p_value=round_figure(largest), family_size=count
        )
    return adjusted
