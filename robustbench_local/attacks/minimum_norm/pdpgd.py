"""PDPGD: steps of proximal gradient descent, whose weight between loss and L1 norm is a dual variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import check_counts
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.attacks.minimum_norm.base import MinimumNormAttack
from robustbench_local.attacks.minimum_norm.nearest_search import (
    MinimumNormSearch,
    build_log_odds_loss,
    compute_search_radius,
    draw_outer_starts,
    select_finite_gradient,
)
from robustbench_local.attacks.minimum_norm.sparse_refinement import (
    estimate_sparse_refinement_cost,
    refine_sparse_successes,
)
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_SECOND_PATH_SHARE = 0.4
"""Steps of the path from a random point, as a share of all. Instead of one path with smaller steps and the
usual refinement, distances are up to 14% shorter, on average over 60 images of each of three networks."""
_MIN_PATH_STEPS = 20
"""Minimum number of steps of that path."""
_ADAM_BETAS = (0.9, 0.999)
_ADAM_EPSILON = 1e-8
_LAST_STEP_SHARE = 0.03
"""Length of the last step as a fraction of the first; it decays exponentially."""
_LAST_DUAL_STEP_SHARE = 0.1
"""The same for the steps of the dual variable; they decay linearly."""
_FIRST_RATIOS = (0.01, 0.135)
"""First weight of the norm on the path from the image and on that from a random point, which is nearer to a
success, in units of the weight of the loss."""
_MIN_RATIO = 1e-6
"""Smallest ratio of the two weights, in both directions."""
_MAX_SHRINKAGE = 5.0
"""Shrinkage of the pixels with the smallest gradients, in units of that of the largest. The exact proximal
operator has no such limit and removes pixels whose gradient is small for a moment."""
_DUAL_MEMORY = 0.9
"""Weight of the past in the moving average of the weights."""


@dataclass(frozen=True, kw_only=True)
class PDPGD(MinimumNormAttack):
    """Primal-dual proximal gradient descent: few pixels change, as each step shrinks every change.

    A step of Adam along the gradient is followed by the L1 norm's proximal operator in Adam's metric, which
    moves every pixel towards the image. The weight of the norm over that of the loss is a dual variable: it
    falls at each failure and grows at each success. A second path starts at a random point three times as far
    from the image as the nearest success. Without a success it starts far away: at the image, clipped or
    saturated activations may give no gradient.

    Four things differ from the paper. The first step is longer, since fewer steps are taken. The step of the
    dual variable depends on the number of steps, so that a short path too gets from the loss to the norm. The
    unit of the shrinkage is that of the pixel with the largest gradient, so that the scale of the logits has
    no influence. The nearest success is refined by steps that solve the linearized problem.

    Args:
        steps: Steps of both paths together, at least 1; few give one path.
        learning_rate: Length of the first step of a pixel, above 0; falls to a thirtieth of it.
        dual_travel: First step of the dual variable times the number of the path's steps, above 0; the step
            falls to a tenth. Half or twice the value ends farther from the image, whatever the number of
            steps.

    Raises:
        ConfigError: If a number is out of range.

    Source: Matyasko & Chau 2021, arXiv:2106.01538, algorithm 2 with the L1 norm.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L1"})

    steps: int = 250
    learning_rate: float = 0.5
    dual_travel: float = 20.0

    def __post_init__(self) -> None:
        check_counts("PDPGD", steps=self.steps)
        if not (self.learning_rate > 0 and self.dual_travel > 0):
            values = f"{self.learning_rate} and {self.dual_travel}"
            raise ConfigError(f"PDPGD's learning_rate and dual_travel must be above 0, got {values}")

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run the path from the image, then the one from a random point."""
        for path, steps in enumerate(self._list_path_steps()):
            engine.run(_PDPGDSearch(self, threat, engine, steps), engine.build_items(path))

    def refine_results(self, engine: Engine, threat: ThreatModel) -> None:
        """Move the nearest successes to the sparsest around them."""
        refine_sparse_successes(engine, threat)

    def estimate_refinement(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the maximum forward and backward passes of ``refine_results`` per image."""
        return estimate_sparse_refinement_cost(threat)

    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return the passes of all steps of both paths, and of their last points."""
        steps = self._list_path_steps()
        return sum(steps) + len(steps), sum(steps)

    def _list_path_steps(self) -> tuple[int, ...]:
        second = max(_MIN_PATH_STEPS, round(_SECOND_PATH_SHARE * self.steps))
        return (self.steps - second, second) if self.steps >= 2 * _MIN_PATH_STEPS else (self.steps,)


@dataclass(kw_only=True)
class _PDPGDState(TensorTable):
    """The state of Adam and the dual variable of each item."""

    gradient_mean: Tensor
    """(W, C, H, W), of the gradient."""
    squared_gradient_mean: Tensor
    """(W, C, H, W), of the squared gradient."""
    dual: Tensor
    """(W,): log of the loss's weight over the norm's."""
    loss_weight: Tensor
    """(W,) in (0, 1): moving average of the loss's weight; the norm has the rest."""


class _PDPGDSearch(MinimumNormSearch[_PDPGDState]):
    name = "pdpgd"

    def __init__(self, attack: PDPGD, threat: ThreatModel, engine: Engine, steps: int) -> None:
        self.attack, self.threat, self.engine, self.steps = attack, threat, engine, steps

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _PDPGDState:
        """Start the first path at the image, the second at a random point."""
        path = int(front.restarts.max())  # all items of a run are of the same path
        if path > 0:
            max_radius = compute_search_radius(front, self.threat)
            front.points = draw_outer_starts(self.engine, front, self.threat, max_radius, stream, draws)
        dual = front.points.new_full((len(front),), -math.log(_FIRST_RATIOS[path]))
        return _PDPGDState(
            gradient_mean=torch.zeros_like(front.points),
            squared_gradient_mean=torch.zeros_like(front.points),
            dual=dual,
            loss_weight=torch.sigmoid(dual),
        )

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the log probability of success, on logits scaled to a fixed range."""
        odds = build_log_odds_loss(self.threat, front.labels)
        return lambda logits: torch.nn.functional.logsigmoid(odds(logits))

    def step(self, front: ActiveSet, state: _PDPGDState, evaluation: PointEvaluation) -> Tensor:
        """Take one step of proximal Adam, and one of the dual variable."""
        gradient = select_finite_gradient(evaluation.gradient, front)
        share = front.age.to(gradient) / self.steps
        length = reshape_for_broadcast(self.attack.learning_rate * _LAST_STEP_SHARE**share, gradient)
        direction, metric = self._update_adam(front, state, gradient)
        moved = front.points + length * direction
        moved = moved.clamp(0, 1) - front.originals
        ratio = reshape_for_broadcast((1 - state.loss_weight) / state.loss_weight, gradient)
        shrunk = moved.sign() * (moved.abs() - length * ratio * metric).clamp_min(0)
        self._update_dual(front, state, evaluation, share)
        points = front.originals + shrunk
        return points if front.masks is None else torch.where(front.masks, points, front.originals)

    def _update_adam(self, front: ActiveSet, state: _PDPGDState, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return Adam's direction, and each pixel's shrinkage in units of that of the largest gradient."""
        count = (front.age + 1).to(gradient)
        first, second = _ADAM_BETAS
        state.gradient_mean = torch.lerp(gradient, state.gradient_mean, first)
        state.squared_gradient_mean = torch.lerp(gradient**2, state.squared_gradient_mean, second)
        mean = state.gradient_mean / reshape_for_broadcast(1 - first**count, gradient)
        square = state.squared_gradient_mean / reshape_for_broadcast(1 - second**count, gradient)
        size = square.sqrt() + _ADAM_EPSILON
        largest = reshape_for_broadcast(size.flatten(1).amax(dim=1), size)
        return mean / size, (largest / size).clamp_max(_MAX_SHRINKAGE)

    def _update_dual(
        self, front: ActiveSet, state: _PDPGDState, evaluation: PointEvaluation, share: Tensor
    ) -> None:
        success = self.has_succeeded(front, evaluation.logits)
        rate = self.attack.dual_travel / self.steps * (1 - share * (1 - _LAST_DUAL_STEP_SHARE))
        limit = -math.log(_MIN_RATIO)
        state.dual = torch.where(success, state.dual - rate, state.dual + rate).clamp(-limit, limit)
        state.loss_weight = torch.lerp(torch.sigmoid(state.dual), state.loss_weight, _DUAL_MEMORY)
