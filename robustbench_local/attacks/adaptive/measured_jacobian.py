"""Gradients of small layers by measuring their Jacobian with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STEP = 0.1
"""Step of the differences, in mean absolute values of the input: wide enough for the stairs of layers that
round or compare."""


class _MeasuredJacobian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, output: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(source)
        ctx.layer = layer
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (source,) = ctx.saved_tensors
        flat = source.detach().flatten(1)
        gradient = torch.zeros_like(flat)
        step = STEP * flat.abs().mean(dim=1).clamp_min(1e-6)
        with torch.no_grad():
            for column in range(flat.shape[1]):
                ends = []
                for side in (1, -1):
                    moved = flat.clone()
                    moved[:, column] += side * step
                    ends.append(ctx.layer(moved.view_as(source)))
                change = ((ends[0] - ends[1]) * slopes[0]).flatten(1).sum(dim=1)
                gradient[:, column] = change / (2 * step)
        return gradient.view_as(source), None, None


def attach_measured_gradient(layer: Callable[[Tensor], Tensor], source: Tensor, output: Tensor) -> Tensor:
    """Return a layer's output with a gradient from central differences of the layer.

    Args:
        layer: From (N, ...) to (N, ...), each row by itself; called twice for each input value of a row.
        source: Its input, (N, ...).
        output: Its output.

    Returns:
        ``output``, bit for bit.
    """
    attached: Tensor = _MeasuredJacobian.apply(source, output.detach(), layer)
    return attached
