"""Bounds of a network's logits and margins over balls of images: IBP, CROWN-IBP and CROWN.

These functions take any module (see `graph.trace_network`) or its graph, which avoids tracing it again. The
functions for training are differentiable in the network's parameters, compute in the dtype of the images and
assume exact arithmetic. `BoundCertificate.compute_margins` is for certificates: it computes in float64 and
covers rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_local.certification.bound_propagation.graph import Graph, trace_network
from robustbench_local.certification.bound_propagation.input_set import BoxRegion, InputRegion
from robustbench_local.certification.bound_propagation.interval import Bounds, Interval, propagate
from robustbench_local.certification.bound_propagation.linear import compute_linear_bounds

Network = nn.Module | Graph


def compute_ibp_bounds(network: Network, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Compute interval bounds of the logits.

    Args:
        network: A module, or its graph (`graph.trace_network`), which avoids tracing at every call. Batch
            norm uses its running statistics and dropout is the identity, in training mode as well.
        lower: Lower bounds of the network's input, (N, C, H, W), normalized if the network expects that.
        upper: Upper bounds of the network's input.

    Returns:
        Lower and upper bounds of the logits, (N, K) each; differentiable in parameters and pixels.

    Raises:
        ModelError: If a layer is not supported.
    """
    interval = _propagate_bounds(network, lower, upper).intervals[-1]
    return interval.lower, interval.upper


def compute_ibp_margins(network: Network, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
    """Compute lower bounds of the label's logit minus each other one, merged with the last linear layers.

    Args:
        network: As for `compute_ibp_bounds`.
        lower: As for `compute_ibp_bounds`.
        upper: As for `compute_ibp_bounds`.
        labels: (N,).

    Returns:
        (N, K), 0 at the label: ``cross_entropy(-margins, labels)`` is the loss of the worst logits.

    Source: Gowal et al. 2018, arXiv:1810.12715, Sec. 3 ("elision of the last layer").
    """
    bounds = _propagate_bounds(network, lower, upper)
    return _compute_margins(bounds, labels, BoxRegion(bounds.intervals[0]), through_activations=False)


def compute_crown_ibp_margins(network: Network, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
    """As `compute_ibp_margins`, by one backward pass of linear bounds over interval bounds.

    Source: Zhang et al. 2020, "Towards stable and efficient training of verifiably robust neural networks"
    (CROWN-IBP), arXiv:1906.06316, Sec. 3.
    """
    bounds = _propagate_bounds(network, lower, upper)
    return _compute_margins(bounds, labels, BoxRegion(bounds.intervals[0]), through_activations=True)


def _propagate_bounds(network: Network, lower: Tensor, upper: Tensor) -> Bounds:
    graph = network if isinstance(network, Graph) else trace_network(network, tuple(lower.shape[1:]))
    return propagate(graph, Interval.from_bounds(lower, upper))


def _compute_margins(
    bounds: Bounds, labels: Tensor, ball: InputRegion, *, through_activations: bool
) -> Tensor:
    classes = bounds.graph.nodes[-1].shape[0]
    rows = build_margin_rows(labels, classes).to(bounds.intervals[0].lower)
    margins = compute_linear_bounds(
        bounds, len(bounds.graph.nodes) - 1, rows, ball, through_activations=through_activations
    )
    return torch.zeros(len(labels), classes, dtype=margins.dtype, device=margins.device).scatter(
        1, list_other_classes(labels, classes), margins
    )


def list_other_classes(labels: Tensor, classes: int) -> Tensor:
    """Return every class but the label, ascending, (N, K - 1)."""
    every = torch.arange(classes - 1, device=labels.device)[None, :]
    return every + (every >= labels[:, None]).long()


def build_margin_rows(labels: Tensor, classes: int) -> Tensor:
    """Return the margins' coefficients in the logits, (N, K - 1, K): 1 at the label, -1 at another class."""
    unit = torch.eye(classes, device=labels.device)
    return unit[labels][:, None] - unit[list_other_classes(labels, classes)]
