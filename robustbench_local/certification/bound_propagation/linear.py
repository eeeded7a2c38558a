"""Linear bounds carried backwards through a network.

A linear function of some node's values is rewritten, step by step, as one of earlier nodes' values that is
never larger, until it is one of the pixels, where its minimum is known.

Source: Zhang et al. 2018, "Efficient neural network robustness certification with general activation
functions" (CROWN), arXiv:1811.00866, Thm. 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustbench_local.certification.bound_propagation.input_set import Ball, Box
from robustbench_local.certification.bound_propagation.interval import Bounds, Interval
from robustbench_local.certification.bound_propagation.operations import (
    Activation,
    Affine,
    Entry,
    Reshape,
    Sum,
)
from robustbench_local.classifier.pass_counter import pass_finished

_PIXEL_NOISE = 2.0**-40
"""Noise of a pixel, for rounding in the last product with the pixels: a sum of up to thousands in float64."""

Slopes = Mapping[int, Tensor]
"""Slopes of the lower lines of activations, by node: (N, 1 or M, ...), in [slope of the activation, 1]."""


def least(
    bounds: Bounds,
    place: int,
    rows: Tensor,
    ball: Ball,
    *,
    slopes: Slopes | None = None,
    through_activations: bool = True,
) -> Tensor:
    """Lower bounds of linear functions of a node's values.

    Args:
        bounds: Of all nodes before it.
        place: The node.
        rows: Coefficients of M functions for each image, (N, M, ...), shaped like the node's values.
        ball: Where the images are.
        slopes: Lower lines of activations; by default the better of 0 and 1 (Sec. 3.3 of the paper).
        through_activations: False stops at activations and takes their intervals instead: interval
            bounds, but with the linear layers after the last activation merged.

    Returns:
        (N, M), differentiable.
    """
    count, functions = rows.shape[:2]
    total = rows.new_zeros(count, functions)
    waiting = {place: rows}
    for here in range(place, -1, -1):
        pass_finished()
        if here not in waiting:
            continue
        rows = waiting.pop(here)
        node = bounds.graph.nodes[here]
        operation = node.operation
        noise = bounds.noise[here]
        if noise is not None:
            total = total - _dot(rows.abs(), noise)
        if isinstance(operation, Entry):
            total = total + ball.least(rows)
            if bounds.rounding is not None:
                total = total - _PIXEL_NOISE * rows.abs().flatten(2).sum(dim=2)
        elif isinstance(operation, Activation):
            if not through_activations:
                total = total + Box(bounds.intervals[here]).least(rows)
                continue
            given = None if slopes is None else slopes[here]
            rows, extra = _relaxed(operation, bounds.intervals[node.inputs[0]], rows, given)
            total = total + extra
            _send(waiting, node.inputs[0], rows)
        elif isinstance(operation, Affine):
            folded, shape = rows.flatten(0, 1), bounds.graph.nodes[node.inputs[0]].shape
            offset = operation.offset(rows)
            if offset is not None:
                total = total + _dot(rows, offset.expand(count, *node.shape))
            _send(waiting, node.inputs[0], operation.transposed(folded).reshape(count, functions, *shape))
        elif isinstance(operation, Reshape):
            _send(waiting, node.inputs[0], rows.reshape(count, functions, *operation.source))
        else:
            assert isinstance(operation, Sum)  # noqa: S101  the only kind that is left
            _send(waiting, node.inputs[0], rows)
            _send(waiting, node.inputs[1], operation.sign * rows)
    return total


def default_slopes(operation: Activation, interval: Interval) -> Tensor:
    """Slopes of the lower lines that leave the smaller area: 1 where more of the interval is positive."""
    steep = interval.upper > -interval.lower
    return torch.where(steep, 1.0, operation.slope).to(interval.lower)


def _relaxed(
    operation: Activation, interval: Interval, rows: Tensor, slopes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows before an activation, and the constants that come with them.

    Above, the activation lies under the line through its ends; below, over a line through the origin.
    Positive coefficients need the line below, negative ones the line above.
    """
    lower, upper = interval.lower[:, None], interval.upper[:, None]
    crossing = (lower < 0) & (upper > 0)
    outside = torch.where(lower >= 0, 1.0, operation.slope).to(rows)
    width = torch.where(crossing, upper - lower, 1.0)
    line = torch.where(crossing, (upper - operation.slope * lower) / width, outside)
    height = torch.where(crossing, upper * (1 - line), 0.0)
    chosen = default_slopes(operation, interval)[:, None] if slopes is None else slopes
    chosen = torch.where(crossing, chosen, outside)
    extra = _dot(rows.clamp_max(0), height)
    return rows * torch.where(rows > 0, chosen, line), extra


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """Products of rows, (N, M, ...), with values, (N, ...): (N, M)."""
    return (rows.flatten(2) @ values.flatten(1)[:, :, None]).squeeze(2)


def _send(waiting: dict[int, Tensor], place: int, rows: Tensor) -> None:
    waiting[place] = waiting[place] + rows if place in waiting else rows
