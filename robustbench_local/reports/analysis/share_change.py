"""A share that was measured in two runs: how much it changed, and whether by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robustbench_local.cluster_statistics import Groups, Marks, estimate_image_share
from robustbench_local.paired_difference import estimate_paired_difference
from robustbench_local.paired_tests import Comparison, adjust_by_holm
from robustbench_local.statistics import Estimate
from robustbench_local.unpaired_difference import estimate_unpaired_difference

ALPHA = 0.05
"""Error probability of a comparison, as in the report."""
ChangeVerdict = Literal["worse", "better", "no difference shown", "unknown"]


@dataclass(frozen=True, kw_only=True)
class ShareChange:
    """The share of a second run less that of the first: on the same images where the data allow it."""

    first: Estimate
    """The share in the first run."""
    second: Estimate
    """The share in the second run."""
    value: float
    """The second share less the first, in [-1, 1]; NaN if it is unknown."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    """Upper end of its 95% interval."""
    test: Comparison | None
    """The exact test on the same images, whose ``only_first`` were lost and ``only_second`` won; None if the
    runs have other images."""
    lost_images: tuple[str, ...] = ()
    """Ids of the images that count in the first run only."""
    won_images: tuple[str, ...] = ()
    """Ids of the images that count in the second run only."""

    @property
    def is_known(self) -> bool:
        """Whether there is any image to compare."""
        return not math.isnan(self.value)

    @property
    def is_paired(self) -> bool:
        """Whether both shares are over the same images."""
        return self.test is not None

    @property
    def verdict(self) -> ChangeVerdict:
        """Whether the second run is worse, better, or not shown to differ; p-values count as adjusted."""
        if not self.is_known:
            return "unknown"
        differs = not self.low <= 0 <= self.high if self.test is None else self.test.is_significant(ALPHA)
        if not differs:
            return "no difference shown"
        return "worse" if self.value < 0 else "better"

    @property
    def smallest_difference(self) -> float:
        """The smallest difference that so many images can show, if all that differ favor one run.

        Infinite if even all images are too few; NaN if the images are not the same.
        """
        if self.test is None:
            return math.nan
        units = self.test.groups or self.test.n
        # d images to 0 have the two-sided p-value 2 * 0.5**d, times the number of comparisons
        deciding = math.floor(math.log2(2 * self.test.family_size / ALPHA)) + 1
        return deciding / units if deciding <= units else math.inf


def compare_marks(first: Marks, second: Marks, groups: Groups, *, is_paired: bool) -> ShareChange:
    """Compare a share between two runs.

    Args:
        first: Whether each image counts in the first run.
        second: Whether each image counts in the second run.
        groups: Group of each image; empty if the images are independent.
        is_paired: Whether images of one id are the same image: then only common ones count.
    """
    if not is_paired:
        estimates = estimate_image_share(first, groups), estimate_image_share(second, groups)
        value, low, high = estimate_unpaired_difference(estimates[1], estimates[0])
        return ShareChange(
            first=estimates[0], second=estimates[1], value=value, low=low, high=high, test=None
        )
    common = [image for image in first if image in second]
    before = {image: first[image] for image in common}
    after = {image: second[image] for image in common}
    difference = estimate_paired_difference(after, before, groups)
    low, high = difference.low, difference.high
    if difference.p_value < ALPHA:  # over groups the interval is wider than the test, whose sign it keeps
        low, high = (max(low, 0.0), high) if difference.value > 0 else (low, min(high, 0.0))
    lost = tuple(image for image in common if before[image] and not after[image])
    won = tuple(image for image in common if after[image] and not before[image])
    return ShareChange(
        first=estimate_image_share(before, groups),
        second=estimate_image_share(after, groups),
        value=difference.value,
        low=low,
        high=high,
        test=Comparison(
            n=difference.n,
            only_first=len(lost),
            only_second=len(won),
            p_value=difference.p_value,
            groups=difference.groups,
        ),
        lost_images=lost,
        won_images=won,
    )


def adjust_changes(changes: Sequence[ShareChange]) -> list[ShareChange]:
    """Adjust the p-values of one table for their number by Holm; changes without a test stay."""
    tests = [change.test for change in changes if change.test is not None and change.is_known]
    adjusted = iter(adjust_by_holm(tests))
    return [
        replace(change, test=next(adjusted)) if change.test is not None and change.is_known else change
        for change in changes
    ]
