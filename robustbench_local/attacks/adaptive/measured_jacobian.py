"""Gradients of opaque layers by measuring their Jacobian with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.attacks.adaptive.local_slopes import select_output

STEP = 0.1
"""Step of the differences, in mean absolute values of the input: wide enough for the stairs of layers that
round or compare."""
MAX_CURVATURE = 0.1
"""Deviation from the mean of its ends, relative to their distance, up to which a layer is nearly affine:
integer arithmetic of 8 bits gives 0.01 to 0.05, a rectifier 0.4."""
_ROWS_PER_CALL = 256


def is_nearly_affine(layer: Callable[[Tensor], Any], inputs: Tensor) -> bool:
    """Check that a layer's output halfway between inputs is halfway between its outputs.

    Args:
        layer: From (N, ...) to a tensor.
        inputs: (N, ...), N at least 2.
    """
    with torch.no_grad():
        outputs = [
            select_output(layer(points)) for points in (inputs, inputs.flip(0), (inputs + inputs.flip(0)) / 2)
        ]
    first, second, middle = outputs
    if first is None or second is None or middle is None:
        return False
    distance = (first - second).double().norm()
    deviation = (middle.double() - (first.double() + second.double()) / 2).norm()
    return bool(distance > 0) and float(deviation) <= MAX_CURVATURE * float(distance)


class MeasuredJacobian:
    """The Jacobian of a layer: one for all images if the layer is nearly affine, else one for each image.

    Args:
        layer: From (N, ...) to (N, ...), each row by itself.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._matrix: Tensor | None = None
        self._is_affine: bool | None = None

    def linearize_layer(self, source: Tensor, output: Tensor) -> Tensor:
        """Return a tensor of the output's shape whose gradient is the layer's measured one.

        Args:
            source: The layer's input, with a graph.
            output: Its output.
        """
        if self._is_affine is None:
            self._is_affine = len(source) > 1 and is_nearly_affine(self._call_layer, source.detach())
        if not self._is_affine:
            result: Tensor = _PointwiseJacobian.apply(source, output.detach(), self._call_layer)
            return result
        if self._matrix is None:
            self._matrix = self._measure_matrix(source[:1].detach())
        return (source.flatten(1) @ self._matrix).view_as(output)

    def _call_layer(self, inputs: Tensor) -> Tensor:
        output = select_output(self._layer.forward(inputs))
        if output is None:
            raise RuntimeError("a layer gives no floating-point output")
        return output

    def _measure_matrix(self, point: Tensor) -> Tensor:
        """Return the Jacobian, (inputs, outputs), from one central difference for each input."""
        size = point.numel()
        step = float(point.abs().max()) or 1.0
        rows = []
        with torch.no_grad():
            for start in range(0, size, _ROWS_PER_CALL):
                units = torch.zeros(min(_ROWS_PER_CALL, size - start), size).to(point)
                units[torch.arange(len(units)), start + torch.arange(len(units))] = step
                high, low = (self._call_layer(side * units.view(-1, *point.shape[1:])) for side in (1, -1))
                rows.append((high - low).flatten(1) / (2 * step))
        return torch.cat(rows)


class _PointwiseJacobian(torch.autograd.Function):
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
