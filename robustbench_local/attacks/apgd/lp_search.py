"""APGD under Linf and L2: steps with momentum whose length is halved when progress stalls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.objective import LossName, build_objective
from robustbench_local.attacks.core.random_starts import draw_sphere_starts
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import (
    compute_bounds,
    compute_steepest_step,
    merge_rows,
    project_to_box,
    reshape_for_broadcast,
)
from robustbench_local.threats.threat_model import ThreatModel

MOMENTUM = 0.75
"""Weight of the gradient step; the rest is the previous move (alpha in the paper)."""
MIN_RISE_SHARE = 0.75
"""Fraction of steps with a rising loss at which the step size stays (rho in the paper)."""


@dataclass(kw_only=True)
class APGDState(TensorTable):
    """The state of APGD, one row per item."""

    previous_points: Tensor
    """(W, C, H, W): the previous point."""
    max_loss_points: Tensor
    """(W, C, H, W): the point of the highest loss."""
    max_loss_direction: Tensor
    """(W, C, H, W): the direction of the gradient there, finite even if the gradient is not."""
    max_loss: Tensor
    """(W,): that loss; -inf before the first evaluation."""
    last_loss: Tensor
    """(W,): the loss at the last evaluation."""
    rise_count: Tensor
    """(W,): steps since the last checkpoint that increased the loss."""
    step_size: Tensor
    """(W,) in pixel units."""
    checkpoint_loss: Tensor
    """(W,): the highest loss at the last checkpoint."""
    was_halved: Tensor
    """(W,) boolean: whether the step size was halved there."""
    lower_bounds: Tensor | None
    """(W, C, H, W): lower bounds of the pixels under Linf; None under L2."""
    upper_bounds: Tensor | None
    """See ``lower_bounds``."""


class APGDSearch(Search[APGDState]):
    """APGD under Linf and L2 on the engine.

    Args:
        threat: Budget, goal and region.
        steps: Steps of a path.
        loss: Loss to maximize; towards the item's target if it has one.
        name: Name of the stage.
    """

    def __init__(self, *, threat: ThreatModel, steps: int, loss: LossName, name: str = "apgd") -> None:
        self.threat, self.steps, self.name, self._loss_name = threat, steps, name, loss
        self._checkpoint_spans = compute_checkpoint_spans(steps)
        self._checkpoint_ages = frozenset(self._checkpoint_spans.nonzero().flatten().tolist())

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> APGDState:
        """Start at random points at the full radius."""
        ball = self.get_ball(front)
        low, high = None, None
        front.points = draw_sphere_starts(front, stream, draws, ball)
        if self.threat.norm == "Linf":
            low, high = compute_bounds(front.originals, ball, front.masks)
        nothing = front.points.new_zeros(len(front))
        return APGDState(
            previous_points=front.points,
            max_loss_points=front.points.clone(),
            max_loss_direction=torch.zeros_like(front.points),
            max_loss=nothing - torch.inf,
            last_loss=nothing + torch.inf,
            rise_count=nothing,
            step_size=2 * (nothing + ball.eps),
            checkpoint_loss=nothing - torch.inf,
            was_halved=torch.ones_like(nothing, dtype=torch.bool),
            lower_bounds=low,
            upper_bounds=high,
        )

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the loss, towards each item's target class if it has one, otherwise for the goal."""
        return build_objective(self._loss_name, self.threat, front.labels, front.targets)

    def step(self, front: ActiveSet, state: APGDState, evaluation: PointEvaluation) -> Tensor:
        """Record the evaluation, adapt the step size at checkpoints, and move with momentum."""
        gradient = evaluation.gradient
        if front.masks is not None and self.threat.norm != "Linf":
            gradient = gradient * front.masks
        direction = compute_steepest_step(gradient, self.threat.norm)
        _record_losses(front, state, evaluation.losses, direction)
        points, direction = self._review_step_size(front, state, direction)
        moved = self._move_points(front, state, points, direction)
        state.previous_points = points
        return moved

    def _review_step_size(
        self, front: ActiveSet, state: APGDState, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """At a checkpoint, halve the step size of stalled paths and return them to their best point."""
        youngest, oldest = front.get_age_range()
        if not self._checkpoint_ages.intersection(range(youngest, oldest + 1)):
            return front.points, direction
        spans = self._checkpoint_spans[front.age]
        due = (spans > 0).to(state.rise_count.device, non_blocking=True)
        stuck = state.was_halved.logical_not() & (state.checkpoint_loss >= state.max_loss)
        weary = (
            state.rise_count <= MIN_RISE_SHARE * spans.to(state.rise_count.device, non_blocking=True)
        ) | stuck
        halve = due & weary
        state.step_size = torch.where(halve, state.step_size / 2, state.step_size)
        state.was_halved = torch.where(due, halve, state.was_halved)
        state.checkpoint_loss = torch.where(due, state.max_loss, state.checkpoint_loss)
        state.rise_count = state.rise_count.masked_fill(due, 0)
        return merge_rows(halve, state.max_loss_points, front.points), merge_rows(
            halve, state.max_loss_direction, direction
        )

    def _move_points(self, front: ActiveSet, state: APGDState, points: Tensor, direction: Tensor) -> Tensor:
        """Take three quarters of the gradient step and a quarter of the last move, if there is one."""
        length = reshape_for_broadcast(state.step_size, points)
        # reuse memory that is no longer needed: allocation costs more than the arithmetic
        gradient_step = torch.addcmul(points, direction, length, out=direction)
        some_fresh = front.get_age_range()[0] == 0
        if state.lower_bounds is not None:
            torch.clamp(gradient_step, state.lower_bounds, state.upper_bounds, out=gradient_step)
            moved = gradient_step * MOMENTUM if some_fresh else gradient_step.mul_(MOMENTUM)
            moved.add_(points, alpha=2 * (1 - MOMENTUM)).sub_(state.previous_points, alpha=1 - MOMENTUM)
            torch.clamp(moved, state.lower_bounds, state.upper_bounds, out=moved)
        else:
            ball = self.get_ball(front)
            gradient_step = project_to_box(gradient_step, front.originals, ball, front.masks)
            mixed = (
                points
                + MOMENTUM * (gradient_step - points)
                + (1 - MOMENTUM) * (points - state.previous_points)
            )
            moved = project_to_box(mixed, front.originals, ball, front.masks)
        if not some_fresh:
            return moved
        fresh = (front.age == 0).to(points.device, non_blocking=True)
        return merge_rows(fresh, gradient_step, moved, out=moved)


def compute_checkpoint_spans(steps: int) -> Tensor:
    """Return the number of steps between checkpoints of the step size.

    Args:
        steps: Steps of a path.

    Returns:
        (steps + 1,) int64: at each age, the steps since the last checkpoint if it is one, else 0. The first
        comes after 22% of the steps; each span is 3% of the steps shorter than the one before, down to 6%.
    """
    span, shortest, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    spans = torch.zeros(steps + 1, dtype=torch.int64)
    age = span
    while age <= steps:
        spans[age] = span
        span = max(span - shorter, shortest)
        age += span
    return spans


def _record_losses(front: ActiveSet, state: APGDState, losses: Tensor, direction: Tensor) -> None:
    """Record the loss, and the point if it is the highest so far; a loss that is not a number is ignored."""
    losses = losses.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    higher = losses > state.max_loss
    merge_rows(higher, front.points, state.max_loss_points, out=state.max_loss_points)
    merge_rows(higher, direction, state.max_loss_direction, out=state.max_loss_direction)
    state.max_loss = torch.where(higher, losses, state.max_loss)
    # before the first step there is no previous loss: last_loss is +inf
    state.rise_count = state.rise_count + (losses > state.last_loss)
    state.last_loss = losses
    if front.get_age_range()[0] == 0:
        first = (front.age == 0).to(losses.device, non_blocking=True)
        state.checkpoint_loss = torch.where(first, losses, state.checkpoint_loss)
