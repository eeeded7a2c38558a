"""The search for the weight between two terms of a loss, separately for each item."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable

_RAISE_FACTOR = 10.0


@dataclass(kw_only=True)
class TradeOffWeight(TensorTable):
    """The weight of each item and its bounds: increased tenfold until the first success, then bisected."""

    value: Tensor
    """(W,)."""
    low: Tensor
    """(W,): the largest insufficient weight."""
    high: Tensor
    """(W,): the smallest sufficient weight; infinite if none is known."""
    has_sufficed: Tensor
    """(W,) boolean: whether the current weight is sufficient."""

    def advance_weight(self, is_over: Tensor) -> None:
        """Move to the next weight where ``is_over``, (W,), boolean."""
        self.low = torch.where(is_over & ~self.has_sufficed, self.value, self.low)
        self.high = torch.where(is_over & self.has_sufficed, self.value, self.high)
        middle = torch.where(self.high.isinf(), _RAISE_FACTOR * self.value, (self.low + self.high) / 2)
        self.value = torch.where(is_over, middle, self.value)
        self.has_sufficed = self.has_sufficed & ~is_over


def build_unit_weight(front: ActiveSet) -> TradeOffWeight:
    """Return a weight of 1 for each item, without bounds."""
    nothing = front.points.new_zeros(len(front))
    return TradeOffWeight(
        value=nothing + 1.0, low=nothing, high=nothing + torch.inf, has_sufficed=nothing > 0
    )


def set_first_weight(weight: TradeOffWeight, front: ActiveSet, factor: float, unit: Tensor) -> None:
    """Set the first weight of new items.

    Args:
        weight: The weights of all items.
        front: The items; those of age 0 are new.
        factor: The first weight in units of ``unit``.
        unit: (W,): the unit of each item.
    """
    if front.get_age_range()[0] == 0:
        weight.value = torch.where((front.age == 0).to(unit.device), factor * unit, weight.value)
