"""A tensor's value with the gradient of another tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ValueWithGradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:  # noqa: ARG004
        return slopes[0], None


def attach_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return ``value``, bit for bit, with the gradient of ``surrogate``.

    Args:
        value: Floating point or complex; its own graph is ignored.
        surrogate: A tensor with a graph, in the same shape or one that can be broadcast to it.
    """
    if surrogate.shape != value.shape:
        surrogate = surrogate.expand(value.shape)
    attached: Tensor = _ValueWithGradientOf.apply(surrogate.to(value.dtype), value.detach())
    return attached


def carries_gradient(value: Any) -> bool:
    """Check whether a value is a tensor through which gradients flow."""
    return isinstance(value, Tensor) and value.requires_grad


def can_carry_gradient(value: Tensor) -> bool:
    """Check whether a tensor's type allows gradients."""
    return value.is_floating_point() or value.is_complex()
