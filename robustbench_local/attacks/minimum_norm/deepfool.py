"""DeepFool: repeated steps to the nearest decision boundary of the linearized classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.decision_boundary import compute_class_leads, find_nearest_boundary
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import check_counts
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.attacks.minimum_norm.base import MinimumNormAttack
from robustbench_local.attacks.minimum_norm.nearest_search import (
    MinimumNormSearch,
    compute_search_radius,
    compute_target_margin,
    draw_outer_starts,
    drop_saturated_pixels,
    select_finite_gradient,
)
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_steepest_step, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_MAX_PATHS = 2
"""The path from the image, and one from a random point."""


@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimumNormAttack):
    """Steps to the nearest decision boundary of another class, until one is crossed.

    The steps ignore the limits of the pixel range; each point is then clipped to [0, 1]. If the path from the
    image crosses none, a second path starts at a random point far from it: at the image, clipped or saturated
    activations may give no gradient or a misleading one.

    Args:
        steps: Maximum number of steps of each of the two paths, at least 1.
        classes: Number of other classes whose boundaries are considered in each step, those with the largest
            logits; each costs a backward pass.
        overshoot: Relative length by which each step goes beyond the boundary, at least 0.

    Raises:
        ConfigError: If a number is out of range.

    Source: Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, algorithm 2 and section 3.3.
    """

    steps: int = 50
    classes: int = 9
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        check_counts("DeepFool", steps=self.steps, classes=self.classes)
        if not 0 <= self.overshoot < 1:
            raise ConfigError(f"DeepFool's overshoot must be at least 0 and below 1, got {self.overshoot}")

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Cross the nearest decision boundary; without success from the image, from a random point."""
        for path in range(_MAX_PATHS):  # a success ends the search for its image
            search = DeepFoolSearch(
                threat=threat, engine=engine, steps=self.steps, classes=self.classes, overshoot=self.overshoot
            )
            engine.run(search, engine.build_items(path))

    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of all steps of both paths towards all classes, and of their last points."""
        count = min(self.classes, len(threat.targets)) if threat.targets else self.classes
        return _MAX_PATHS * (self.steps + 1), _MAX_PATHS * self.steps * count


@dataclass(kw_only=True)
class _DeepFoolState(TensorTable):
    """The sum of the steps, without overshoot."""

    delta: Tensor
    """(W, C, H, W)."""


class DeepFoolSearch(MinimumNormSearch[_DeepFoolState]):
    """DeepFool's paths on the engine; an item ends with its first success.

    Args:
        threat: Norm and goal.
        engine: The engine that the search runs on.
        steps: Maximum number of steps.
        classes: Number of other classes considered.
        overshoot: Relative lengthening of the steps.
    """

    name = "deepfool"

    def __init__(
        self, *, threat: ThreatModel, engine: Engine, steps: int, classes: int, overshoot: float
    ) -> None:
        self.threat, self.steps, self._engine = threat, steps, engine
        self._classes, self._overshoot = classes, overshoot

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _DeepFoolState:
        """Start the first path at the image, the second at a random point."""
        if int(front.restarts.max()) > 0:
            max_radius = compute_search_radius(front, self.threat)
            front.points = draw_outer_starts(self._engine, front, self.threat, max_radius, stream, draws)
        return _DeepFoolState(delta=front.points - front.originals)

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score points as in every minimum-norm search; any success ends the path."""
        scores, _ = super().score_points(front, logits)
        return scores, self.has_succeeded(front, logits)

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the margins of the most likely classes, (W, T)."""
        return lambda logits: compute_class_leads(logits, front.labels, self.threat, self._classes)

    def step(self, front: ActiveSet, state: _DeepFoolState, evaluation: PointEvaluation) -> Tensor:
        """Step to the nearest of the decision boundaries, each in its linear model."""
        normals = torch.stack(
            [
                drop_saturated_pixels(select_finite_gradient(gradient, front), front.points)
                for gradient in evaluation.gradient.unbind(dim=1)
            ],
            dim=1,
        )
        # beyond the boundary by the margin of a success: on it, with two equal logits, no step would follow
        gaps = evaluation.losses - compute_target_margin(evaluation.logits)[:, None]
        chosen, distance = find_nearest_boundary(gaps, normals, self.threat.norm)
        normal = normals[torch.arange(len(chosen), device=chosen.device), chosen]
        length = torch.where(distance.isfinite(), distance, 0.0)
        move = reshape_for_broadcast(length, normal) * compute_steepest_step(normal, self.threat.norm)
        state.delta = (front.originals + state.delta + move).clamp(0, 1) - front.originals
        return (front.originals + (1 + self._overshoot) * state.delta).clamp(0, 1)
