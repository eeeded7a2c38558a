"""Custom backward passes: straight-through as in BPDA, and a clamp with gradient 1 at its borders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    """The function's value with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ARG004
        return function(images)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:  # noqa: ARG004
        return slopes[0], None


def apply_straight_through(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return a function's values, with the gradient of the identity.

    This suits a function that is close to the identity and whose own gradient is zero or missing.

    Args:
        function: (N, C, H, W) to the same shape; need not be differentiable.
        images: (N, C, H, W).

    Returns:
        ``function(images)``, bit for bit.

    Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1.1.
    """
    result: Tensor = _StraightThrough.apply(images, function)
    return result


def is_straight_through(node: Any) -> bool:
    """Return whether a node of an autograd graph comes from `apply_straight_through`."""
    return getattr(type(node), "_forward_cls", None) is _StraightThrough


def is_own_surrogate(model: Any) -> bool:
    """Return whether a model is a class of this package whose gradients are not those of its answers.

    Such a class says so by an attribute ``lends_gradients``; on classes of others it means nothing.
    """
    is_own = type(model).__module__.startswith("robustbench_local.")
    return is_own and getattr(type(model), "lends_gradients", False) is True


class _BorderClamp(torch.autograd.Function):
    """A clamp whose gradient is 1 at its borders, as inside."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((values >= low) & (values <= high))
        return values.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return slopes[0] * inside, None, None


def clamp_with_border_gradient(values: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return ``values.clamp(low, high)``, bit for bit, with gradient 1 also at exactly ``low`` and ``high``.

    Args:
        values: Any shape, floating point.
        low: Smallest value.
        high: Largest value.
    """
    clamped: Tensor = _BorderClamp.apply(values, low, high)
    return clamped
