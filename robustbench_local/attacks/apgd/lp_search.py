"""APGD's path under Linf and L2: steps with momentum, of a length that is halved where they get nowhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.objective import LossName, objective
from robustbench_local.attacks.core.random_starts import border_start
from robustbench_local.attacks.core.search import Search, Seen
from robustbench_local.attacks.core.work_items import Front, Rows
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import bounds, choose, column, steepest, to_ball_and_box
from robustbench_local.threats.threat_model import ThreatModel

MOMENTUM = 0.75
"""Share of the plain step in a step; the rest repeats the last move (alpha in the paper)."""
RISES = 0.75
"""A step size is kept while the loss rises in this share of the steps (rho in the paper)."""


@dataclass(kw_only=True)
class Path(Rows):
    """What APGD remembers of each item."""

    previous: Tensor
    """(W, C, H, W): the point before the present one."""
    top: Tensor
    """(W, C, H, W): the point of the highest loss."""
    top_direction: Tensor
    """(W, C, H, W): the direction of the gradient there, which is finite whatever the gradient is."""
    top_loss: Tensor
    """(W,): that loss; -inf before the first look."""
    last_loss: Tensor
    """(W,): the loss at the last look."""
    rises: Tensor
    """(W,): steps since the last checkpoint after which the loss was higher than before."""
    step_size: Tensor
    """(W,) in pixel units."""
    checked_loss: Tensor
    """(W,): the highest loss at the last checkpoint."""
    halved: Tensor
    """(W,) boolean: whether the step size was halved there."""
    low: Tensor | None
    """(W, C, H, W): where pixels may go under Linf; None under L2."""
    high: Tensor | None
    """See ``low``."""


class APGDSearch(Search[Path]):
    """APGD's paths on the engine, for Linf and L2.

    Args:
        threat: Budget, goal and region.
        steps: Steps of a path.
        loss: What to climb; towards the item's target if it has one.
        name: Name of the stage.
    """

    def __init__(self, *, threat: ThreatModel, steps: int, loss: LossName, name: str = "apgd") -> None:
        self.threat, self.steps, self.name, self._loss = threat, steps, name, loss
        self._spans = checkpoint_spans(steps)
        self._due = frozenset(self._spans.nonzero().flatten().tolist())

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> Path:
        """A random start of full length."""
        ball = self.ball(front)
        low, high = None, None
        front.points = border_start(front, stream, draws, ball)
        if self.threat.norm == "Linf":
            low, high = bounds(front.originals, ball, front.masks)
        nothing = front.points.new_zeros(len(front))
        return Path(
            previous=front.points,
            top=front.points.clone(),
            top_direction=torch.zeros_like(front.points),
            top_loss=nothing - torch.inf,
            last_loss=nothing + torch.inf,
            rises=nothing,
            step_size=2 * (nothing + ball.eps),
            checked_loss=nothing - torch.inf,
            halved=torch.ones_like(nothing, dtype=torch.bool),
            low=low,
            high=high,
        )

    def loss(self, front: Front) -> Callable[[Tensor], Tensor]:
        """The loss, towards each item's own class if it has one, else as the goal says."""
        return objective(self._loss, self.threat, front.labels, front.targets)

    def step(self, front: Front, state: Path, seen: Seen) -> Tensor:
        """Remember what was seen, review the step size where it is time, and move with momentum."""
        gradient = seen.gradient
        if front.masks is not None and self.threat.norm != "Linf":
            gradient = gradient * front.masks
        direction = steepest(gradient, self.threat.norm)
        _remember(front, state, seen.losses, direction)
        points, direction = self._review(front, state, direction)
        moved = self._move(front, state, points, direction)
        state.previous = points
        return moved

    def _review(self, front: Front, state: Path, direction: Tensor) -> tuple[Tensor, Tensor]:
        """At a checkpoint: halve the step size of paths that got nowhere, which go back to their top."""
        youngest, oldest = front.span()
        if not self._due.intersection(range(youngest, oldest + 1)):
            return front.points, direction
        spans = self._spans[front.age]
        due = (spans > 0).to(state.rises.device, non_blocking=True)
        stuck = state.halved.logical_not() & (state.checked_loss >= state.top_loss)
        weary = (state.rises <= RISES * spans.to(state.rises.device, non_blocking=True)) | stuck
        halve = due & weary
        state.step_size = torch.where(halve, state.step_size / 2, state.step_size)
        state.halved = torch.where(due, halve, state.halved)
        state.checked_loss = torch.where(due, state.top_loss, state.checked_loss)
        state.rises = state.rises.masked_fill(due, 0)
        return choose(halve, state.top, front.points), choose(halve, state.top_direction, direction)

    def _move(self, front: Front, state: Path, points: Tensor, direction: Tensor) -> Tensor:
        """The plain step, and three quarters of it with a quarter of the last move; the first has none."""
        length = column(state.step_size, points)
        # in memory that nobody needs any more: fresh memory costs more than the sums
        plain = torch.addcmul(points, direction, length, out=direction)
        some_fresh = front.span()[0] == 0
        if state.low is not None:
            torch.clamp(plain, state.low, state.high, out=plain)
            moved = plain * MOMENTUM if some_fresh else plain.mul_(MOMENTUM)
            moved.add_(points, alpha=2 * (1 - MOMENTUM)).sub_(state.previous, alpha=1 - MOMENTUM)
            torch.clamp(moved, state.low, state.high, out=moved)
        else:
            ball = self.ball(front)
            plain = to_ball_and_box(plain, front.originals, ball, front.masks)
            mixed = points + MOMENTUM * (plain - points) + (1 - MOMENTUM) * (points - state.previous)
            moved = to_ball_and_box(mixed, front.originals, ball, front.masks)
        if not some_fresh:
            return moved
        fresh = (front.age == 0).to(points.device, non_blocking=True)
        return choose(fresh, plain, moved, out=moved)


def checkpoint_spans(steps: int) -> Tensor:
    """After how many steps the step size is reviewed.

    Args:
        steps: Steps of a path.

    Returns:
        (steps + 1,) int64: at each age, the steps since the last checkpoint if it is one, else 0. The first
        comes after 22 % of the steps; each span is 3 % of the steps shorter than the one before, down to 6 %.
    """
    span, shortest, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    spans = torch.zeros(steps + 1, dtype=torch.int64)
    age = span
    while age <= steps:
        spans[age] = span
        span = max(span - shorter, shortest)
        age += span
    return spans


def _remember(front: Front, state: Path, losses: Tensor, direction: Tensor) -> None:
    """Note the loss, and the point if it is the highest so far; a loss that is no number is none."""
    losses = losses.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    higher = losses > state.top_loss
    choose(higher, front.points, state.top, out=state.top)
    choose(higher, direction, state.top_direction, out=state.top_direction)
    state.top_loss = torch.where(higher, losses, state.top_loss)
    # before the first step there was nothing to rise from: last_loss is +inf then
    state.rises = state.rises + (losses > state.last_loss)
    state.last_loss = losses
    if front.span()[0] == 0:
        first = (front.age == 0).to(losses.device, non_blocking=True)
        state.checked_loss = torch.where(first, losses, state.checked_loss)
