"""MI-FGSM: steps along an accumulated gradient; the base class of the transfer attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, BallAttack
from robustbench_local.attacks.core.losses import compute_log_odds
from robustbench_local.attacks.core.objective import LossName, build_objective, check_loss, check_loss_defined
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.gradient_repair import remove_nonfinite
from robustbench_local.errors import ConfigError
from robustbench_local.threats.lp_ball import (
    compute_norms,
    compute_steepest_step,
    project_to_box,
    reshape_for_broadcast,
)
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class MIFGSM(BallAttack):
    """Momentum iterative FGSM, and its L2 form.

    Every path runs all its steps and its last point is returned, misclassified or not: the end of the path
    transfers, not the first point across the surrogate's decision boundary. The cross-entropy is maximized
    through its log-odds: the same direction, without the zero gradient of a saturated softmax. If all
    gradients of an image have been zero or not finite, it takes its steps in a random direction.

    Args:
        steps: Steps, at least 1.
        step_size: Length of a step in pixel units of [0, 1], in the threat model's norm; by default
            eps / steps, as in the paper.
        decay: Decay factor of the accumulated gradient, the paper's mu, at least 0.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``; towards the target set if the goal is targeted.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Dong et al. 2018, arXiv:1710.06081, algorithm 1 and section 3.3.
    """

    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        name = type(self).__name__
        if self.steps < 1:
            raise ConfigError(f"{name} needs at least 1 step, got {self.steps}")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ConfigError(f"{name}'s step_size must be above 0 and finite, got {self.step_size}")
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise ConfigError(f"{name}'s decay must be at least 0 and finite, got {self.decay}")

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Run the path; see :meth:`BallAttack.find_candidates`."""
        images, threat, masks = inputs.images, inputs.threat, inputs.masks
        visible = torch.ones_like(images[:, :1]) if masks is None else masks.to(images.dtype)
        stray = (
            inputs.stream.sample_normal(tuple(images.shape[1:]), draw="stray", device=images.device) * visible
        )
        slope = self._build_gradient_function(inputs)
        length = threat.eps / self.steps if self.step_size is None else self.step_size
        points, momentum = images, torch.zeros_like(images)
        for step in range(self.steps):
            momentum = self.decay * momentum + normalize_l1(slope(points, step) * visible)
            has_no_gradient = reshape_for_broadcast(~momentum.flatten(1).any(dim=1), momentum)
            direction = compute_steepest_step(torch.where(has_no_gradient, stray, momentum), threat.norm)
            points = project_to_box(points + length * direction, images, threat, masks)
        return points

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return one pass each way per step; the last point is never evaluated."""
        return (self.steps, self.steps) if threat.eps else (0, 0)

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check_support`; also refuses a loss that is undefined for the goal."""
        super().check_support(threat, classifier)
        check_loss_defined(self.loss, threat, classifier.num_classes)

    def _build_gradient_function(self, inputs: AttackInputs) -> Callable[[Tensor, int], Tensor]:
        """Build the gradient for momentum, as a function of the points, (N, C, H, W), and the step."""
        return lambda points, step: self._compute_gradient(inputs, points, str(step))[0]

    def _compute_gradient(
        self,
        inputs: AttackInputs,
        points: Tensor,
        draw_name: str,  # noqa: ARG002 - for subclasses
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradient of the loss at the points, and its value, (N,)."""
        _, values, gradient = inputs.classifier.compute_gradient(points, self._build_objective(inputs))
        return gradient, values

    def _build_objective(self, inputs: AttackInputs) -> Callable[[Tensor], Tensor]:
        """Build the loss to maximize, as a function of the logits."""
        if self.loss != "ce":
            return build_objective(self.loss, inputs.threat, inputs.labels)
        targets = inputs.labels.new_tensor(inputs.threat.targets)
        return lambda logits: compute_log_odds(logits, inputs.labels, targets)


def normalize_l1(gradient: Tensor) -> Tensor:
    """Divide each row by its L1 norm; entries that are NaN or infinite count as zero.

    Args:
        gradient: (N, C, H, W).

    Returns:
        Same shape, finite.
    """
    safe = remove_nonfinite(gradient)
    # dividing by the largest entry first keeps the sum of tiny or huge gradients from leaving the float range
    peak = reshape_for_broadcast(compute_norms(safe, "Linf"), safe)
    scaled = safe / torch.where(peak > 0, peak, 1.0)
    return scaled / reshape_for_broadcast(compute_norms(scaled, "L1"), scaled).clamp_min(1.0)
