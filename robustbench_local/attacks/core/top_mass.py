"""The largest entries of a row that together reach a given mass, without sorting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_ROUNDS = 32
"""Maximum rounds of a selection; about eight are enough for a row of a thousand entries."""


@dataclass(frozen=True, kw_only=True)
class TopMassCut:
    """The cut of each row, one value or mass per row, (N, 1).

    Entries above ``high`` are included. Entries above ``low`` and up to ``high`` all have the same value; the
    cut goes through them, because including all of them would exceed the mass.
    """

    low: Tensor
    high: Tensor
    mass_low: Tensor
    """Mass of all entries above ``low``."""
    mass_high: Tensor
    """Mass of all entries above ``high``."""


def select_top_mass(values: Tensor, masses: Tensor, target_mass: Tensor) -> TopMassCut:
    """Cut each row where its largest entries together reach the target mass.

    The search for the cut narrows an interval of values. Each round splits it at the mass-weighted mean of
    the entries inside, so that a round costs a few sums and needs no sorting.

    Args:
        values: (N, D), at least 0; entries of value 0 are never selected.
        masses: (N, D), at least 0.
        target_mass: (N, 1). A row with no more mass than that keeps ``low`` at 0 and ``high`` at infinity.

    Returns:
        The cuts; on a GPU after a fixed number of rounds, without a check that all rows have converged.
    """
    products = values * masses
    low, high = torch.zeros_like(target_mass), torch.full_like(target_mass, torch.inf)
    # two buffers for everything: allocation in each round would take longer than the arithmetic
    above, part = values.sign(), torch.empty_like(values)
    mass_low, sum_low = _dot_rows(masses, above, part), _dot_rows(products, above, part)
    mass_high, sum_high = torch.zeros_like(target_mass), torch.zeros_like(target_mass)
    for _ in range(_MAX_ROUNDS):
        pivot = (sum_low - sum_high) / (mass_low - mass_high)
        torch.sub(values, pivot, out=above).sign_().clamp_min_(0)
        mass, total = _dot_rows(masses, above, part), _dot_rows(products, above, part)
        settled = (mass == mass_low) | (mass == mass_high) | (mass_low <= target_mass)
        if target_mass.device.type == "cpu" and bool(settled.all()):
            break
        up, down = (mass <= target_mass) & ~settled, (mass > target_mass) & ~settled
        high, low = torch.where(up, pivot, high), torch.where(down, pivot, low)
        mass_high, mass_low = torch.where(up, mass, mass_high), torch.where(down, mass, mass_low)
        sum_high, sum_low = torch.where(up, total, sum_high), torch.where(down, total, sum_low)
    return TopMassCut(low=low, high=high, mass_low=mass_low, mass_high=mass_high)


def _dot_rows(left: Tensor, right: Tensor, scratch: Tensor) -> Tensor:
    """Compute the inner products of the rows, (N, 1); ``scratch``, (N, D), is overwritten."""
    return torch.mul(left, right, out=scratch).sum(dim=1, keepdim=True)
