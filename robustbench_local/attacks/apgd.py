"""APGD: PGD with momentum whose step size falls by what the path shows, with nothing to tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack, required_masks
from robustbench_local.attacks.engine import Engine, Search, Seen
from robustbench_local.attacks.front import Front, Rows
from robustbench_local.attacks.objective import LossName, check_defined, check_loss, objective
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.geometry import (
    Balls,
    bounds,
    choose,
    column,
    norm_of,
    radius,
    random_start,
    steepest,
    to_ball_and_box,
)
from robustbench_local.randomness import Stream
from robustbench_local.threat import ThreatModel

MOMENTUM = 0.75
"""Share of the plain step in a step; the rest repeats the last move (alpha in the paper)."""
RISES = 0.75
"""A step size is kept while the loss rises in this share of the steps (rho in the paper)."""


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD, without early stopping unless a success is confirmed.

    Args:
        steps: Steps in each restart, at least 1.
        restarts: Paths for an image, at least 1, each from a random start on the border of the ball.
        loss: ``"ce"``, ``"dlr"`` or ``"margin"``; towards the target set if the goal is targeted.
        draws: Gradients that are averaged for one step, for classifiers that draw random numbers.
        early_stop: Whether an image leaves with its first success.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Croce & Hein 2020, arXiv:2003.01690, algorithm 1.
    """

    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    refills: ClassVar[bool] = True

    steps: int = 100
    restarts: int = 1
    loss: LossName = "ce"
    draws: int = 1
    early_stop: bool = True

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_counts("APGD", steps=self.steps, restarts=self.restarts, draws=self.draws)

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: Stream,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Search; see :meth:`Attack.perturb`."""
        masks = required_masks(threat, masks)
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        early_stop, draws = self.early_stop, self.draws
        engine = Engine(classifier, images, labels, stream, masks, early_stop=early_stop, draws=draws)
        for restart in range(self.restarts):
            engine.run(APGDSearch(threat=threat, steps=self.steps, loss=self.loss), engine.items(restart))
        return engine.points

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """All steps of all restarts, and the look at each path's last point."""
        paths = self.restarts * self.draws
        return (paths * (self.steps + 1), paths * self.steps) if threat.eps else (0, 0)

    def check(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check`; also refuses a loss that is undefined here."""
        super().check(threat, classifier)
        check_defined(self.loss, threat, classifier.num_classes)


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

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> Path:
        """A random start of full length."""
        ball = self.ball(front)
        low, high = None, None
        front.points = _border_start(front, stream, draws, self.ball(front))
        if self.threat.norm == "Linf":
            low, high = bounds(front.originals, ball, front.masks)
        nothing = front.points.new_zeros(len(front))
        return Path(
            previous=front.points,
            top=front.points,
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
        masked = self.threat.norm != "Linf" and front.masks is not None
        gradient = seen.gradient * front.masks if masked else seen.gradient
        direction = steepest(gradient, self.threat.norm)
        _remember(front, state, seen.losses, direction)
        points, direction = self._review(front, state, direction)
        moved = self._move(front, state, points, direction)
        state.previous = points
        return moved

    def _review(self, front: Front, state: Path, direction: Tensor) -> tuple[Tensor, Tensor]:
        """At a checkpoint: halve the step size of paths that got nowhere, which go back to their top."""
        spans = self._spans[front.age]
        if not bool((spans > 0).any()):
            return front.points, direction
        due = (spans > 0).to(state.rises.device)
        stuck = state.halved.logical_not() & (state.checked_loss >= state.top_loss)
        weary = (state.rises <= RISES * spans.to(state.rises.device)) | stuck
        halve = due & weary
        state.step_size = torch.where(halve, state.step_size / 2, state.step_size)
        state.halved = torch.where(due, halve, state.halved)
        state.checked_loss = torch.where(due, state.top_loss, state.checked_loss)
        state.rises = state.rises.masked_fill(due, 0)
        return choose(halve, state.top, front.points), choose(halve, state.top_direction, direction)

    def _move(self, front: Front, state: Path, points: Tensor, direction: Tensor) -> Tensor:
        """The plain step, and three quarters of it with a quarter of the last move; the first has none."""
        length = column(state.step_size, points)
        plain = torch.addcmul(points, direction, length)
        if state.low is not None:
            torch.clamp(plain, state.low, state.high, out=plain)
            moved = plain * MOMENTUM
            moved.add_(points, alpha=2 * (1 - MOMENTUM)).sub_(state.previous, alpha=1 - MOMENTUM)
            torch.clamp(moved, state.low, state.high, out=moved)
        else:
            ball = self.ball(front)
            plain = to_ball_and_box(plain, front.originals, ball, front.masks)
            mixed = points + MOMENTUM * (plain - points) + (1 - MOMENTUM) * (points - state.previous)
            moved = to_ball_and_box(mixed, front.originals, ball, front.masks)
        fresh = front.age == 0
        return choose(fresh.to(points.device), plain, moved) if bool(fresh.any()) else moved


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


def check_counts(name: str, **counts: int) -> None:
    """Refuse hyper-parameters that count something and are below 1.

    Raises:
        ConfigError: Naming the first.
    """
    for key, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name}'s {key} must be at least 1, got {value}")


def _remember(front: Front, state: Path, losses: Tensor, direction: Tensor) -> None:
    """Note the loss, and the point if it is the highest so far; a loss that is no number is none."""
    losses = torch.where(torch.isnan(losses), -torch.inf, losses)
    higher = losses > state.top_loss
    state.top = choose(higher, front.points, state.top)
    state.top_direction = choose(higher, direction, state.top_direction)
    state.top_loss = torch.where(higher, losses, state.top_loss)
    # before the first step there was nothing to rise from: last_loss is +inf then
    state.rises = state.rises + (losses > state.last_loss)
    state.last_loss = losses
    first = (front.age == 0).to(losses.device)
    state.checked_loss = torch.where(first, losses, state.checked_loss)


def _border_start(front: Front, stream: Stream, draws: list[str], ball: ThreatModel | Balls) -> Tensor:
    """Random points whose distance from the original, box aside, is the radius."""
    shape, device = tuple(front.points.shape[1:]), front.points.device
    delta = random_start(stream, shape, ball, draw=draws, device=device, masks=front.masks)
    size = column(norm_of(delta, ball.norm), delta).clamp_min(1e-30)
    return to_ball_and_box(
        front.originals + delta / size * radius(ball, delta), front.originals, ball, front.masks
    )
