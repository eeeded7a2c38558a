"""The search for the weight between two terms of a loss, each item for itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.work_items import Front, Rows

_RAISE = 10.0


@dataclass(kw_only=True)
class Weight(Rows):
    """A weight and what is known about it: raised tenfold until it suffices, then halved into."""

    value: Tensor
    """(W,)."""
    low: Tensor
    """(W,): the largest that did not suffice."""
    high: Tensor
    """(W,): the smallest that did; infinite before."""
    reached: Tensor
    """(W,) boolean: whether the present one has sufficed."""

    def advance(self, over: Tensor) -> None:
        """Go on to the next weight where ``over``, (W,), boolean."""
        self.low = torch.where(over & ~self.reached, self.value, self.low)
        self.high = torch.where(over & self.reached, self.value, self.high)
        middle = torch.where(self.high.isinf(), _RAISE * self.value, (self.low + self.high) / 2)
        self.value = torch.where(over, middle, self.value)
        self.reached = self.reached & ~over


def no_weight(front: Front) -> Weight:
    """A weight of 1 for each item, before anything is known."""
    nothing = front.points.new_zeros(len(front))
    return Weight(value=nothing + 1.0, low=nothing, high=nothing + torch.inf, reached=nothing > 0)


def first_weight(weight: Weight, front: Front, factor: float, unit: Tensor) -> None:
    """Give new items their first weight.

    Args:
        weight: Of all items.
        front: Says which of them are new.
        factor: The first weight in units.
        unit: (W,): the unit of each item.
    """
    if front.span()[0] == 0:
        weight.value = torch.where((front.age == 0).to(unit.device), factor * unit, weight.value)
