"""Ceilings: shares that an estimate of the worst case must not lie above, because they stand beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from robustbench_local.cluster_statistics import Marks
from robustbench_local.statistics import Estimate


def lower_to_shares(estimate: Estimate, shares: Iterable[Marks]) -> Estimate:
    """Lower an estimate to the lowest of the shares of marked images; the upper end of the interval stays.

    A random part of the images may be one on which all attacks do well. An estimate that corrects for it can
    be above the share of an attack on that part, which contradicts what the attack has shown of the images
    that it met. The lower number is on the safe side, and the interval only becomes wider.

    Args:
        estimate: A share that bounds from above what is robust.
        shares: Image id -> whether it is robust to one of the attacks; without images it bounds nothing.
    """
    values = (sum(marks.values()) / len(marks) for marks in shares if marks)
    return lower_to_values(estimate, values)


def lower_to_values(estimate: Estimate, values: Iterable[float]) -> Estimate:
    """Lower an estimate to the lowest of these values, as ``lower_to_shares``."""
    lowest = min(values, default=estimate.value)
    if not estimate.is_known or not lowest < estimate.value:
        return estimate
    return replace(estimate, value=lowest, low=min(estimate.low, lowest))
