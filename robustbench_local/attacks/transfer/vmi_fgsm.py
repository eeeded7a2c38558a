"""VMI-FGSM: each gradient is corrected by the mean gradient around the previous point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.transfer.ti_fgsm import TIFGSM
from robustbench_local.classifier.gradient_repair import remove_nonfinite
from robustbench_local.errors import ConfigError
from robustbench_local.threats.lp_ball import reshape_for_broadcast, sample_random_start
from robustbench_local.threats.threat_model import ThreatModel

_MAX_LOG_RATIO = 40.0
"""Natural logarithm of the largest ratio of two gradients' weights: it keeps their sum in the float range."""


@dataclass(frozen=True, kw_only=True)
class VMIFGSM(TIFGSM):
    """Variance-tuned momentum; with ``probability`` and ``kernel_size`` also the paper's VMI-DI and VMI-TI.

    Neighbors are clipped to [0, 1], since a classifier is only queried with valid images. The last step has
    no next step, so its neighbors are not evaluated.

    Args:
        neighbours: Points sampled around each point of the path, the paper's N; at 0 this is MI-FGSM.
        beta: Radius of the neighborhood as a multiple of eps, in the threat model's norm, above 0.

    Source: Wang & He 2021, arXiv:2103.15571, definition 1 and algorithm 1.
    """

    kernel_size: int = 1
    neighbours: int = 20
    beta: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 0:
            raise ConfigError(f"VMIFGSM needs 0 or more neighbours, got {self.neighbours}")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"VMIFGSM's beta must be above 0 and finite, got {self.beta}")

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of the path, and of the neighbors of all its points but the last."""
        passes = self.steps + (self.steps - 1) * self.neighbours
        return (passes, passes) if threat.eps else (0, 0)

    def _build_gradient_function(self, inputs: AttackInputs) -> Callable[[Tensor, int], Tensor]:
        """Build the gradient plus the variance at the previous point, relative to the current weight."""
        variance = torch.zeros_like(inputs.images)
        before = torch.zeros(len(inputs.images), device=inputs.images.device)

        def compute_tuned_gradient(points: Tensor, step: int) -> Tensor:
            nonlocal variance, before
            point_gradient, values = self._compute_gradient(inputs, points, str(step))
            weight = self._compute_log_weight(inputs, values)
            slope = point_gradient + remove_nonfinite(_scale_rows(variance, before - weight))
            if self.neighbours and step + 1 < self.steps:
                variance, before = (
                    self._estimate_variance(inputs, points, step, point_gradient, weight),
                    weight,
                )
            return slope

        return compute_tuned_gradient

    def _estimate_variance(
        self, inputs: AttackInputs, points: Tensor, step: int, point_gradient: Tensor, weight: Tensor
    ) -> Tensor:
        """Estimate the mean difference of the neighbors' gradients from the point's; NaN counts as 0."""
        ball = replace(inputs.threat, eps=self.beta * inputs.threat.eps)
        shape, device = tuple(points.shape[1:]), points.device
        total = torch.zeros_like(points)
        for number in range(self.neighbours):
            draw = f"{step}/{number}"
            delta = sample_random_start(
                inputs.stream, shape, ball, draw=draw, device=device, masks=inputs.masks
            )
            neighbour_gradient, values = self._compute_gradient(inputs, (points + delta).clamp(0, 1), draw)
            total += remove_nonfinite(
                _scale_rows(neighbour_gradient, self._compute_log_weight(inputs, values) - weight)
                - point_gradient
            )
        return total / self.neighbours

    def _compute_log_weight(self, inputs: AttackInputs, values: Tensor) -> Tensor:
        """Return the natural logarithm of the slope of the loss with respect to the objective."""
        if self.loss != "ce":
            return torch.zeros_like(values)
        return F.logsigmoid(-values if inputs.threat.targets else values)


def _scale_rows(gradient: Tensor, log_factor: Tensor) -> Tensor:
    """Multiply each row by its factor, (N,), given by its natural logarithm."""
    return gradient * reshape_for_broadcast(log_factor.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp(), gradient)
