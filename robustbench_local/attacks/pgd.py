"""PGD: many small steps along the gradient, each brought back into the ball, from several starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from robustbench_local.attacks.base import Attack, required_masks
from robustbench_local.attacks.objective import Best, LossName, check_defined, check_loss, objective
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.geometry import random_start, steepest, to_ball_and_box
from robustbench_local.randomness import Stream
from robustbench_local.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent on the loss, keeping the best point of every path.

    An image leaves the search as soon as a point on its path is confirmed adversarial, and only images
    that survive a restart see the next one. An image whose gradient is zero or not finite stands still, so
    its path ends there.

    Args:
        steps: Steps in each restart, at least 1.
        step_size: Length of a step in pixel units of [0, 1], in the threat model's norm; by default
            2.5 * eps / steps, which reaches the border of the ball from anywhere inside.
        restarts: Paths for an image, at least 1.
        random_start: Whether the first path starts at a point drawn uniformly from the ball, as all later
            ones do; otherwise it starts at the image itself.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``; towards the target set if the goal is targeted.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1.
    """

    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})

    steps: int = 50
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        if self.steps < 1 or self.restarts < 1:
            raise ConfigError(
                f"PGD needs at least 1 step and 1 restart, got {self.steps} and {self.restarts}"
            )
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ConfigError(f"PGD's step_size must be above 0 and finite, got {self.step_size}")

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
        best = Best(images, labels, threat)
        everything = _Front(rows=best.open(), points=images, originals=images, labels=labels, masks=masks)
        for restart in range(self.restarts):
            front = everything.keep(~best.found)
            if len(front.rows) == 0:
                break
            if restart > 0 or self.random_start:
                front = front.at(self._start(front, threat, stream, restart))
            self._climb(classifier, front, threat, best)
        return best.points

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """All steps of all restarts, and the look at each path's last point."""
        return (self.restarts * (self.steps + 1), self.restarts * self.steps) if threat.eps else (0, 0)

    def check(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check`; also refuses a loss that is undefined here."""
        super().check(threat, classifier)
        check_defined(self.loss, threat, classifier.num_classes)

    def warnings(self, threat: ThreatModel) -> list[str]:
        """A step size that overshoots the ball, or that cannot cross half of it."""
        length = self._length(threat)
        if threat.eps == 0 or (0.5 * threat.eps / self.steps <= length <= 2 * threat.eps):
            return []
        if length > 2 * threat.eps:
            return [f"PGD's step_size {length:.4g} is more than twice eps {threat.eps:.4g}: it jumps about"]
        reach = f"{self.steps} steps of {length:.4g} do not go half the way to eps {threat.eps:.4g}"
        return [f"PGD's {reach}: raise step_size or steps"]

    def _climb(self, classifier: Classifier, front: _Front, threat: ThreatModel, best: Best) -> None:
        """One path for each image of the front; ``best`` keeps what it finds."""
        length = self._length(threat)
        for _ in range(self.steps):
            loss = objective(self.loss, threat, front.labels)
            logits, _, gradient = classifier.gradient(front.points, loss, front.rows)
            done = best.offer(front.rows, front.points, logits)
            direction = steepest(gradient if front.masks is None else gradient * front.masks, threat.norm)
            points = front.points + length * direction
            moves = direction.flatten(1).any(dim=1)
            front = front.at(to_ball_and_box(points, front.originals, threat, front.masks)).keep(
                moves & ~done
            )
            if len(front.rows) == 0:
                return
        best.offer(front.rows, front.points, classifier(front.points, front.rows))

    def _start(self, front: _Front, threat: ThreatModel, stream: Stream, restart: int) -> Tensor:
        """Random points in the ball and the box."""
        delta = random_start(
            stream.select(front.rows),
            tuple(front.points.shape[1:]),
            threat,
            draw=restart,
            device=front.points.device,
            masks=front.masks,
        )
        return to_ball_and_box(front.originals + delta, front.originals, threat, front.masks)

    def _length(self, threat: ThreatModel) -> float:
        return 2.5 * threat.eps / self.steps if self.step_size is None else self.step_size


@dataclass(frozen=True, kw_only=True)
class _Front:
    """The images still being worked on, and where each is on its path."""

    rows: Tensor
    points: Tensor
    originals: Tensor
    labels: Tensor
    masks: Tensor | None

    def at(self, points: Tensor) -> _Front:
        return replace(self, points=points)

    def keep(self, wanted: Tensor) -> _Front:
        """Only the images marked in ``wanted``, (N,) boolean."""
        if bool(wanted.all()):
            return self
        return _Front(
            rows=self.rows[wanted],
            points=self.points[wanted],
            originals=self.originals[wanted],
            labels=self.labels[wanted],
            masks=None if self.masks is None else self.masks[wanted],
        )
