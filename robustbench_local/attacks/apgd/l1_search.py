"""APGD under L1: adaptive sparse steps in a ball that shrinks to the threat model's radius."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.in_ball_filter import score_points_in_ball
from robustbench_local.attacks.core.objective import LossName, build_objective
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.top_mass import select_top_mass
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import PerImageBalls, merge_rows, project_to_box, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

RADIUS_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii, in units of the threat model's radius, and the fraction of the steps spent at each."""
SPARSITY_FACTOR = 1.5
"""Ratio of the pixels changed in the best point to the pixels that a step moves."""
STEP_DIVISOR = 1.5
"""Divisor of the step length at a checkpoint."""
MIN_STEP_SHARE = 0.1
"""Minimum step length, as a fraction of the radius."""
RESTART_SPARSITY_SHARE = 0.95
"""Fraction of changed pixels in the best point below which the step length is reset."""
REVIEW_INTERVAL_SHARE = 0.04
"""Fraction of a phase's steps between two checkpoints."""


@dataclass(kw_only=True)
class APGDL1State(TensorTable):
    """The state of APGD under L1, one row per item."""

    max_loss_points: Tensor
    """(W, C, H, W): the point of the highest loss in this phase."""
    max_loss_gradient: Tensor
    """(W, C, H, W): the gradient there."""
    max_loss: Tensor
    """(W,): that loss; -inf before the first evaluation of the phase."""
    changed_count: Tensor
    """(W,): pixel values changed in the best point at the last checkpoint."""
    step_length: Tensor
    """(W,): L1 norm of a step."""


class APGDL1Search(Search[APGDL1State]):
    """APGD under L1 on the engine. Points outside the threat model's ball never count as success.

    Args:
        threat: Budget, goal and region.
        steps: Steps of a path; two of them move from one radius to the next.
        loss: Loss to maximize; towards the item's target if it has one.
        name: Name of the stage.

    Source: Croce & Hein 2021, arXiv:2103.01208, section 3 and appendix A.
    """

    def __init__(self, *, threat: ThreatModel, steps: int, loss: LossName, name: str = "apgd") -> None:
        self.threat, self.steps, self.name, self._loss_name = threat, steps, name, loss
        self._schedule = APGDL1Schedule.from_steps(steps)

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> APGDL1State:
        """Start from noise projected onto the first ball, which makes it sparse."""
        device = front.points.device
        noise = stream.sample_normal(tuple(front.points.shape[1:]), draw=draws, device=device)
        reach = self._compute_radius(front, front.age)
        front.points = self._project_points(front, front.originals + noise, reach)
        return APGDL1State(
            max_loss_points=front.points,
            max_loss_gradient=torch.zeros_like(front.points),
            max_loss=torch.full_like(reach, -torch.inf),
            changed_count=_count_changed_pixels(front.points, front),
            step_length=reach,
        )

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the loss, towards each item's target class if it has one, otherwise for the goal."""
        return build_objective(self._loss_name, self.threat, front.labels, front.targets)

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score points; only points inside the threat model's ball count as success."""
        return score_points_in_ball(front, logits, self.threat, self.get_ball(front))

    def step(self, front: ActiveSet, state: APGDL1State, evaluation: PointEvaluation) -> Tensor:
        """Move along the largest entries of the gradient, or project the best point into the next ball."""
        gradient = _select_finite_gradient(front, evaluation.gradient)
        _record_losses(front, state, evaluation.losses, gradient)
        reach = self._compute_radius(front, front.age)
        points = front.points
        reviewed = self._schedule.is_review[front.age]
        if bool(reviewed.any()):
            is_restart = _review_step_length(
                front, state, reach, reviewed.to(reach.device, non_blocking=True)
            )
            points, gradient = (
                merge_rows(is_restart, state.max_loss_points, points),
                merge_rows(is_restart, state.max_loss_gradient, gradient),
            )
        moved = _compute_sparse_step(gradient, state).add_(points)
        turning = self._schedule.ends_phase[front.age]
        if not bool(turning.any()):
            return self._project_points(front, moved, reach)
        turned = turning.to(reach.device, non_blocking=True)
        reach = self._compute_radius(front, front.age + 1)
        moved = self._project_points(front, merge_rows(turned, state.max_loss_points, moved), reach)
        state.max_loss = state.max_loss.masked_fill(turned, -torch.inf)
        state.changed_count = torch.where(turned, _count_changed_pixels(moved, front), state.changed_count)
        state.step_length = torch.where(turned, reach, state.step_length)
        return moved

    def _compute_radius(self, front: ActiveSet, age: Tensor) -> Tensor:
        """Return the radius of each item's ball at an age, (W,)."""
        factors = self._schedule.radius_factors[age].to(front.points.device, front.points.dtype)
        return factors * self.get_ball(front).eps

    def _project_points(self, front: ActiveSet, points: Tensor, reach: Tensor) -> Tensor:
        return project_to_box(points, front.originals, PerImageBalls("L1", reach), front.masks)


@dataclass(frozen=True, kw_only=True)
class APGDL1Schedule:
    """The radius and checkpoint events by age, (steps + 1,) each."""

    radius_factors: Tensor
    """Radius of the ball, in units of the threat model's radius."""
    ends_phase: Tensor
    """Whether the step leads to the next ball."""
    is_review: Tensor
    """Whether sparsity and step length are adapted before the step."""

    @classmethod
    def from_steps(cls, steps: int) -> APGDL1Schedule:
        """Build the schedule of a path; with fewer than four steps, all of them are in the last ball."""
        lengths = [int(share * steps) for _, share in RADIUS_PHASES[:-1]]
        lengths.append(steps + 1 - sum(lengths))
        factors = [
            factor for (factor, _), length in zip(RADIUS_PHASES, lengths, strict=True) for _ in range(length)
        ]
        turning = [now != later for now, later in zip(factors, [*factors[1:], factors[-1]], strict=True)]
        reviewed = [
            age > 0 and age % max(int(REVIEW_INTERVAL_SHARE * length), 1) == 0
            for length in lengths
            for age in range(length)
        ]
        return cls(
            radius_factors=torch.tensor(factors),
            ends_phase=torch.tensor(turning),
            is_review=torch.tensor(reviewed),
        )


def _select_finite_gradient(front: ActiveSet, gradient: Tensor) -> Tensor:
    """Return the gradient inside the masks; zero for items where it is not finite."""
    gradient = gradient if front.masks is None else gradient * front.masks
    usable = torch.isfinite(gradient.flatten(1).sum(dim=1))
    return gradient.masked_fill(~reshape_for_broadcast(usable, gradient), 0.0)


def _count_changed_pixels(points: Tensor, front: ActiveSet) -> Tensor:
    """Count the pixel values that differ from the original, (W,)."""
    return (points - front.originals).sign_().abs_().flatten(1).sum(dim=1)


def _record_losses(front: ActiveSet, state: APGDL1State, losses: Tensor, gradient: Tensor) -> None:
    """Record the point if its loss is the highest of the phase; a loss that is not a number is ignored."""
    losses = torch.where(torch.isnan(losses), -torch.inf, losses)
    higher = losses > state.max_loss
    state.max_loss_points = merge_rows(higher, front.points, state.max_loss_points)
    state.max_loss_gradient = merge_rows(higher, gradient, state.max_loss_gradient)
    state.max_loss = torch.where(higher, losses, state.max_loss)


def _review_step_length(front: ActiveSet, state: APGDL1State, reach: Tensor, due: Tensor) -> Tensor:
    """Adapt sparsity and step length to the best point; return which items return to it, (W,)."""
    changed = _count_changed_pixels(state.max_loss_points, front)
    sparser = changed < RESTART_SPARSITY_SHARE * state.changed_count
    shorter = (state.step_length / STEP_DIVISOR).maximum(MIN_STEP_SHARE * reach)
    state.step_length = torch.where(due, torch.where(sparser, reach, shorter), state.step_length)
    state.changed_count = torch.where(due, changed, state.changed_count)
    return due & sparser


def _compute_sparse_step(gradient: Tensor, state: APGDL1State) -> Tensor:
    """Return equal moves of the pixel values with the largest gradients."""
    flat = gradient.flatten(1)
    size = flat.abs()
    count = (state.changed_count / SPARSITY_FACTOR).round().clamp_min(1)[:, None]
    cut = select_top_mass(size, torch.ones_like(size), count - 0.5)
    chosen = size.sub_(cut.low).sign_().clamp_min_(0)
    share = state.step_length[:, None] / chosen.sum(dim=1, keepdim=True).clamp_min(1)
    return chosen.mul_(flat.sign()).mul_(share).view_as(gradient)
