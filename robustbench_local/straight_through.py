"""Straight through, as BPDA has it: forward by the real thing, backward as if it were not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    """The function's value with the identity's gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ARG004
        return function(images)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:  # noqa: ARG004
        return slopes[0], None


def straight_through(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A function's values, with gradients as if it left the images alone.

    Right for a function that is close to the identity and whose own gradient is zero or missing.

    Args:
        function: (N, C, H, W) to the same shape; need not be differentiable.
        images: (N, C, H, W).

    Returns:
        ``function(images)``, bit for bit.

    Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1.1.
    """
    result: Tensor = _StraightThrough.apply(images, function)
    return result
