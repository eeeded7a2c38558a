"""Linear bounds carried backwards through a network.

A linear function of a node's values is replaced, step by step, by a lower bound that is linear in the values
of earlier nodes. At the pixels the minimum of the function is known.

Source: Zhang et al. 2018, "Efficient neural network robustness certification with general activation
functions" (CROWN), arXiv:1811.00866, Thm. 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustbench_local.certification.bound_propagation.input_set import BoxRegion, InputRegion
from robustbench_local.certification.bound_propagation.interval import Bounds, Interval
from robustbench_local.certification.bound_propagation.operations import (
    Activation,
    Affine,
    InputNode,
    Reshape,
    Sum,
)
from robustbench_local.classifier.pass_counter import record_finished_pass

_PIXEL_ROUNDING_SHARE = 2.0**-40
"""Noise of a pixel, for rounding in the last product with the pixels: a sum of up to thousands of terms in
float64."""

Slopes = Mapping[int, Tensor]
"""Slopes of the lower bounds of activations, by node: (N, 1 or M, ...), in [slope of the activation, 1]."""


def compute_linear_bounds(
    bounds: Bounds,
    node_index: int,
    rows: Tensor,
    ball: InputRegion,
    *,
    slopes: Slopes | None = None,
    through_activations: bool = True,
) -> Tensor:
    """Compute lower bounds of linear functions of a node's values.

    Args:
        bounds: Bounds of all nodes before it.
        node_index: The node.
        rows: Coefficients of M functions for each image, (N, M, ...), shaped like the node's values.
        ball: Set of images around each image.
        slopes: Slopes of the lower bounds of activations; by default the better of 0 and 1 (Sec. 3.3 of the
            paper).
        through_activations: False stops at activations and uses their intervals instead: interval bounds, but
            with the linear layers after the last activation merged.

    Returns:
        (N, M), differentiable.
    """
    count, functions = rows.shape[:2]
    total = rows.new_zeros(count, functions)
    waiting = {node_index: rows}
    for index in range(node_index, -1, -1):
        record_finished_pass()
        if index not in waiting:
            continue
        rows = waiting.pop(index)
        node = bounds.graph.nodes[index]
        operation = node.operation
        noise = bounds.noise[index]
        if noise is not None:
            total = total - _dot_rows(rows.abs(), noise)
        if isinstance(operation, InputNode):
            total = total + ball.compute_lower_bounds(rows)
            if bounds.rounding is not None:
                total = total - _PIXEL_ROUNDING_SHARE * rows.abs().flatten(2).sum(dim=2)
        elif isinstance(operation, Activation):
            if not through_activations:
                total = total + BoxRegion(bounds.intervals[index]).compute_lower_bounds(rows)
                continue
            node_slopes = None if slopes is None else slopes[index]
            rows, extra = _relax_activation(operation, bounds.intervals[node.inputs[0]], rows, node_slopes)
            total = total + extra
            _add_rows(waiting, node.inputs[0], rows)
        elif isinstance(operation, Affine):
            folded, shape = rows.flatten(0, 1), bounds.graph.nodes[node.inputs[0]].shape
            offset = operation.compute_offset(rows)
            if offset is not None:
                total = total + _dot_rows(rows, offset.expand(count, *node.shape))
            _add_rows(
                waiting, node.inputs[0], operation.apply_transposed(folded).reshape(count, functions, *shape)
            )
        elif isinstance(operation, Reshape):
            _add_rows(waiting, node.inputs[0], rows.reshape(count, functions, *operation.input_shape))
        else:
            assert isinstance(operation, Sum)  # noqa: S101  the only kind that is left
            _add_rows(waiting, node.inputs[0], rows)
            _add_rows(waiting, node.inputs[1], operation.sign * rows)
    return total


def choose_default_slopes(operation: Activation, interval: Interval) -> Tensor:
    """Return the slopes of lower bounds with the smaller area: 1 if more of the interval is positive."""
    steep = interval.upper > -interval.lower
    return torch.where(steep, 1.0, operation.slope).to(interval.lower)


def _relax_activation(
    operation: Activation, interval: Interval, rows: Tensor, slopes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the rows before an activation, and the constants that come with them.

    The upper bound is the line through the ends of the activation on the interval; the lower bound is a line
    through the origin. Positive coefficients need the lower line, negative ones the upper line.
    """
    lower, upper = interval.lower[:, None], interval.upper[:, None]
    unstable = (lower < 0) & (upper > 0)
    outside = torch.where(lower >= 0, 1.0, operation.slope).to(rows)
    width = torch.where(unstable, upper - lower, 1.0)
    line = torch.where(unstable, (upper - operation.slope * lower) / width, outside)
    height = torch.where(unstable, upper * (1 - line), 0.0)
    chosen = choose_default_slopes(operation, interval)[:, None] if slopes is None else slopes
    chosen = torch.where(unstable, chosen, outside)
    extra = _dot_rows(rows.clamp_max(0), height)
    return rows * torch.where(rows > 0, chosen, line), extra


def _dot_rows(rows: Tensor, values: Tensor) -> Tensor:
    """Compute the products of rows, (N, M, ...), with values, (N, ...): (N, M)."""
    return (rows.flatten(2) @ values.flatten(1)[:, :, None]).squeeze(2)


def _add_rows(waiting: dict[int, Tensor], place: int, rows: Tensor) -> None:
    waiting[place] = waiting[place] + rows if place in waiting else rows
