"""CROWN: linear bounds whose intermediate intervals are themselves improved by linear bounds.

Source: Zhang et al. 2018, arXiv:1811.00866; optimized slopes: Xu et al. 2021, "Fast and complete"
(alpha-CROWN), arXiv:2011.13824, Sec. 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustbench_local.certification.bound_propagation.certificate import BoundCertificate
from robustbench_local.certification.bound_propagation.graph import Graph
from robustbench_local.certification.bound_propagation.input_set import BoxRegion, InputRegion
from robustbench_local.certification.bound_propagation.interval import Bounds, Interval, propagate
from robustbench_local.certification.bound_propagation.linear import (
    choose_default_slopes,
    compute_linear_bounds,
)
from robustbench_local.certification.bound_propagation.operations import Activation, Affine
from robustbench_local.certification.bound_propagation.rounding import Rounding
from robustbench_local.errors import ConfigError
from robustbench_local.threats.threat_model import ThreatModel

_MAX_ROWS_BYTES = 64 * 2**20
"""Memory for the coefficients of functions bounded together."""
_FIRST_SLOPE_STEP = 0.25
"""First change of a slope, which is in [0, 1]; later changes decrease linearly."""


@dataclass(frozen=True, kw_only=True)
class CROWN(BoundCertificate):
    """Linear bounds from the margins back to the pixels.

    Cheap bounds come first and decide as many images as possible: intervals, then linear bounds, then
    optimized slopes.

    Attributes:
        intermediate: Method for the bounds of the activations' inputs: ``"crown"``, or ``"ibp"``, which is
            faster by a factor of the network's width and tight enough for networks trained with it.
        steps: Gradient steps on the slopes of the lower bounds, for margins that are not certified without
            them.
    """

    intermediate: Literal["crown", "ibp"] = "crown"
    steps: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must be at least 0, got {self.steps}")

    def compute_margins(self, graph: Graph, ball: InputRegion, rows: Tensor, rounding: Rounding) -> Tensor:
        """See :meth:`BoundCertificate.compute_margins`."""
        index = len(graph.nodes) - 1
        bounds = propagate(graph, ball.box, rounding=rounding)
        margins = compute_linear_bounds(bounds, index, rows, ball, through_activations=False)
        margins = torch.maximum(margins, compute_linear_bounds(bounds, index, rows, ball))
        unproven = _find_unproven_rows(margins)
        if self.intermediate == "crown" and len(unproven):
            bounds, ball, rows = (
                compute_crown_bounds(graph, ball.select_images(unproven), rounding),
                ball.select_images(unproven),
                rows[unproven],
            )
            margins[unproven] = torch.maximum(
                margins[unproven], compute_linear_bounds(bounds, index, rows, ball)
            )
        else:
            bounds, ball, rows = bounds.select_images(unproven), ball.select_images(unproven), rows[unproven]
        unproven_rows = _find_unproven_rows(margins[unproven])
        if self.steps and len(unproven_rows):
            better = optimize_slopes(
                bounds.select_images(unproven_rows),
                rows[unproven_rows],
                ball.select_images(unproven_rows),
                self.steps,
            )
            margins[unproven[unproven_rows]] = torch.maximum(margins[unproven[unproven_rows]], better)
        return margins

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002  the same for every ball
        """Return one forward pass; the bounds pass through a graph of their own."""
        return 1, 0

    def estimate_work(self, threat: ThreatModel) -> int:  # noqa: ARG002 - as above
        """Return the passes of small networks that take as long as the bounds."""
        return (5000 if self.intermediate == "crown" else 300) + 200 * self.steps


def _find_unproven_rows(margins: Tensor) -> Tensor:
    """Return the batch indices of images with a margin that is not above 0."""
    return (margins.amin(dim=1) <= 0).nonzero().flatten()


def compute_crown_bounds(graph: Graph, ball: InputRegion, rounding: Rounding | None) -> Bounds:
    """Compute bounds of every node; linear bounds improve those of the activations' inputs.

    Args:
        graph: The network.
        ball: Set of images around each image.
        rounding: Rounding of the network's arithmetic.
    """
    exact = _find_exact_nodes(graph) if isinstance(ball, BoxRegion) else frozenset[int]()

    def tighten(bounds: Bounds, index: int, interval: Interval) -> Interval:
        return interval if index in exact else _improve_interval(bounds, index, interval, ball)

    return propagate(graph, ball.box, rounding=rounding, tighten=tighten)


def _find_exact_nodes(graph: Graph) -> frozenset[int]:
    """Return nodes whose interval is exact for a box of images: affine maps, at most one of them mixing."""
    mixed: list[int] = []
    for node in graph.nodes:
        if isinstance(node.operation, Activation) or len(node.inputs) > 1:
            mixed.append(2)
            continue
        is_mixing = isinstance(node.operation, Affine) and node.operation.mixes_values
        mixed.append(sum(mixed[index] for index in node.inputs) + is_mixing)
    return frozenset(index for index, count in enumerate(mixed) if count < 2)


def _improve_interval(bounds: Bounds, index: int, interval: Interval, ball: InputRegion) -> Interval:
    """Improve the interval by linear bounds for values of either sign; all others need none."""
    lower, upper = interval.lower.flatten(1), interval.upper.flatten(1)
    unstable = (lower < 0) & (upper > 0)
    max_unstable = int(unstable.sum(dim=1).amax())
    # images have different numbers of such values: padding repeats stable ones, which are not used
    order = unstable.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :max_unstable]
    better_lower, better_upper = lower.clone(), upper.clone()
    extended_bounds = Bounds(bounds.graph, bounds.rounding, [*bounds.intervals, interval], bounds.noise)
    for chosen in torch.split(order, _count_functions_per_chunk(bounds.graph, len(order), lower), dim=1):
        rows = torch.zeros(*chosen.shape, lower.shape[1], dtype=lower.dtype, device=lower.device)
        rows.scatter_(2, chosen[:, :, None], 1.0)
        rows = rows.reshape(*chosen.shape, *bounds.graph.nodes[index].shape)
        ends = compute_linear_bounds(extended_bounds, index, torch.cat([rows, -rows], dim=1), ball)
        low, high = ends[:, : chosen.shape[1]], -ends[:, chosen.shape[1] :]
        better_lower.scatter_(1, chosen, torch.maximum(low, lower.gather(1, chosen)))
        better_upper.scatter_(1, chosen, torch.minimum(high, upper.gather(1, chosen)))
    shape = interval.lower.shape
    lower = torch.where(unstable, better_lower, lower).reshape(shape)
    upper = torch.where(unstable, better_upper, upper).reshape(shape)
    return Interval.from_bounds(lower, upper)


def _count_functions_per_chunk(graph: Graph, images: int, like: Tensor) -> int:
    widest = max(torch.Size(node.shape).numel() for node in graph.nodes)
    return max(1, _MAX_ROWS_BYTES // (2 * images * widest * like.element_size()))


def optimize_slopes(bounds: Bounds, rows: Tensor, ball: InputRegion, steps: int) -> Tensor:
    """Compute lower bounds of linear functions of the logits, with slopes optimized by gradient steps.

    Any slope in its range gives a valid bound, so the best of all steps is valid.

    Args:
        bounds: Bounds of all nodes.
        rows: (N, M, K).
        ball: Set of images around each image.
        steps: Gradient steps.

    Returns:
        (N, M), detached.
    """
    index = len(bounds.graph.nodes) - 1
    best = compute_linear_bounds(bounds, index, rows, ball)
    slopes, ranges = _build_starting_slopes(bounds, rows.shape[1])
    for step in range(steps if slopes else 0):
        with torch.enable_grad():
            current = compute_linear_bounds(bounds, index, rows, ball, slopes=slopes)
            gradients = torch.autograd.grad(current.sum(), list(slopes.values()))
        best = torch.maximum(best, current.detach())
        stride = _FIRST_SLOPE_STEP * (1 - step / steps)
        for (node_index, slope), gradient in zip(slopes.items(), gradients, strict=True):
            slope.data.add_(gradient.sign(), alpha=stride).clamp_(ranges[node_index], 1.0)
    return best


def _build_starting_slopes(bounds: Bounds, functions: int) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Return initial slopes for each image, function and value, to be optimized, and their minimum."""
    slopes, ranges = {}, {}
    for node_index, node in enumerate(bounds.graph.nodes):
        if isinstance(node.operation, Activation):
            start = choose_default_slopes(node.operation, bounds.intervals[node.inputs[0]])[:, None]
            slopes[node_index] = start.repeat(1, functions, *[1] * len(node.shape)).requires_grad_()
            ranges[node_index] = node.operation.slope
    return slopes, ranges
