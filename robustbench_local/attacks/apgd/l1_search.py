"""APGD under L1: sparse steps that adapt to the path, in a ball that shrinks to the threat model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.in_ball_filter import judge_inside
from robustbench_local.attacks.core.objective import LossName, objective
from robustbench_local.attacks.core.search import Search, Seen
from robustbench_local.attacks.core.top_mass import select_largest
from robustbench_local.attacks.core.work_items import Front, Rows
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import Balls, choose, column, to_ball_and_box
from robustbench_local.threats.threat_model import ThreatModel

PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii, in units of the threat model's, and the share of the steps that is spent at each."""
SPARSER = 1.5
"""A step moves this many times fewer pixels than the best point has changed."""
SHRINK = 1.5
"""What a step's length is divided by at a review."""
SHORTEST = 0.1
"""Share of the radius below which no step falls."""
SETTLED = 0.95
"""Where the best point's changed pixels have fallen below this share, steps start again at full length."""
SPAN = 0.04
"""Share of a phase's steps between two reviews."""


@dataclass(kw_only=True)
class SparsePath(Rows):
    """What APGD under L1 remembers of each item."""

    top: Tensor
    """(W, C, H, W): the point of the highest loss in this phase."""
    top_gradient: Tensor
    """(W, C, H, W): the gradient there."""
    top_loss: Tensor
    """(W,): that loss; -inf before the phase's first look."""
    changed: Tensor
    """(W,): pixel values that the top differed in from the original at the last review."""
    length: Tensor
    """(W,): L1 norm of a step."""


class APGDL1Search(Search[SparsePath]):
    """APGD's paths on the engine, for L1. Points outside the threat model's ball never count as success.

    Args:
        threat: Budget, goal and region.
        steps: Steps of a path, of which two lead from one radius to the next.
        loss: What to climb; towards the item's target if it has one.
        name: Name of the stage.

    Source: Croce & Hein 2021, arXiv:2103.01208, section 3 and appendix A.
    """

    def __init__(self, *, threat: ThreatModel, steps: int, loss: LossName, name: str = "apgd") -> None:
        self.threat, self.steps, self.name, self._loss = threat, steps, name, loss
        self._schedule = Schedule.of(steps)

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> SparsePath:
        """Noise, projected onto the first ball, which leaves it sparse."""
        device = front.points.device
        noise = stream.normal(tuple(front.points.shape[1:]), draw=draws, device=device)
        reach = self._reach(front, front.age)
        front.points = self._contained(front, front.originals + noise, reach)
        return SparsePath(
            top=front.points,
            top_gradient=torch.zeros_like(front.points),
            top_loss=torch.full_like(reach, -torch.inf),
            changed=_changed(front.points, front),
            length=reach,
        )

    def loss(self, front: Front) -> Callable[[Tensor], Tensor]:
        """The loss, towards each item's own class if it has one, else as the goal says."""
        return objective(self._loss, self.threat, front.labels, front.targets)

    def judge(self, front: Front, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Only points inside the threat model's ball count."""
        return judge_inside(front, logits, self.threat, self.ball(front))

    def step(self, front: Front, state: SparsePath, seen: Seen) -> Tensor:
        """Move along the largest entries of the gradient, or take the best point into the next ball."""
        gradient = _usable(front, seen.gradient)
        _remember(front, state, seen.losses, gradient)
        reach = self._reach(front, front.age)
        points = front.points
        reviewed = self._schedule.reviewed[front.age]
        if bool(reviewed.any()):
            back = _review(front, state, reach, reviewed.to(reach.device, non_blocking=True))
            points, gradient = choose(back, state.top, points), choose(back, state.top_gradient, gradient)
        moved = _sparse_step(gradient, state).add_(points)
        turning = self._schedule.turning[front.age]
        if not bool(turning.any()):
            return self._contained(front, moved, reach)
        turned = turning.to(reach.device, non_blocking=True)
        reach = self._reach(front, front.age + 1)
        moved = self._contained(front, choose(turned, state.top, moved), reach)
        state.top_loss = state.top_loss.masked_fill(turned, -torch.inf)
        state.changed = torch.where(turned, _changed(moved, front), state.changed)
        state.length = torch.where(turned, reach, state.length)
        return moved

    def _reach(self, front: Front, age: Tensor) -> Tensor:
        """Radius of the ball that each item is in at an age, (W,)."""
        factors = self._schedule.factors[age].to(front.points.device, front.points.dtype)
        return factors * self.ball(front).eps

    def _contained(self, front: Front, points: Tensor, reach: Tensor) -> Tensor:
        return to_ball_and_box(points, front.originals, Balls("L1", reach), front.masks)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What happens at which age, (steps + 1,) each."""

    factors: Tensor
    """Radius of the ball, in units of the threat model's."""
    turning: Tensor
    """Whether the step leads to the next ball."""
    reviewed: Tensor
    """Whether sparsity and length are reviewed before the step."""

    @classmethod
    def of(cls, steps: int) -> Schedule:
        """The schedule of a path; with fewer than four steps, all of them are in the last ball."""
        lengths = [int(share * steps) for _, share in PHASES[:-1]]
        lengths.append(steps + 1 - sum(lengths))
        factors = [factor for (factor, _), length in zip(PHASES, lengths, strict=True) for _ in range(length)]
        turning = [now != later for now, later in zip(factors, [*factors[1:], factors[-1]], strict=True)]
        reviewed = [
            age > 0 and age % max(int(SPAN * length), 1) == 0 for length in lengths for age in range(length)
        ]
        return cls(
            factors=torch.tensor(factors), turning=torch.tensor(turning), reviewed=torch.tensor(reviewed)
        )


def _usable(front: Front, gradient: Tensor) -> Tensor:
    """The gradient inside the masks; zero, which stands still, for items where it is not finite."""
    gradient = gradient if front.masks is None else gradient * front.masks
    usable = torch.isfinite(gradient.flatten(1).sum(dim=1))
    return gradient.masked_fill(~column(usable, gradient), 0.0)


def _changed(points: Tensor, front: Front) -> Tensor:
    """How many pixel values differ from the original, (W,)."""
    return (points - front.originals).sign_().abs_().flatten(1).sum(dim=1)


def _remember(front: Front, state: SparsePath, losses: Tensor, gradient: Tensor) -> None:
    """Note the point if its loss is the highest of the phase; a loss that is no number is none."""
    losses = torch.where(torch.isnan(losses), -torch.inf, losses)
    higher = losses > state.top_loss
    state.top = choose(higher, front.points, state.top)
    state.top_gradient = choose(higher, gradient, state.top_gradient)
    state.top_loss = torch.where(higher, losses, state.top_loss)


def _review(front: Front, state: SparsePath, reach: Tensor, due: Tensor) -> Tensor:
    """Set sparsity and length by what the best point has become; says which items go back to it, (W,)."""
    changed = _changed(state.top, front)
    sparser = changed < SETTLED * state.changed
    shorter = (state.length / SHRINK).maximum(SHORTEST * reach)
    state.length = torch.where(due, torch.where(sparser, reach, shorter), state.length)
    state.changed = torch.where(due, changed, state.changed)
    return due & sparser


def _sparse_step(gradient: Tensor, state: SparsePath) -> Tensor:
    """Equal moves of the pixel values with the largest gradients."""
    flat = gradient.flatten(1)
    size = flat.abs()
    count = (state.changed / SPARSER).round().clamp_min(1)[:, None]
    cut = select_largest(size, torch.ones_like(size), count - 0.5)
    chosen = size.sub_(cut.low).sign_().clamp_min_(0)
    share = state.length[:, None] / chosen.sum(dim=1, keepdim=True).clamp_min(1)
    return chosen.mul_(flat.sign()).mul_(share).view_as(gradient)
