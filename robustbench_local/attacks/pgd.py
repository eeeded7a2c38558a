"""PGD: many small steps along the gradient, each brought back into the ball, from several starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack, required_masks
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import LossName, check_defined, check_loss, objective
from robustbench_local.attacks.core.search import Search, Seen
from robustbench_local.attacks.core.work_items import Front, Rows
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import bounds, random_start, steepest, to_ball_and_box
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent on the loss, keeping the best point of every path.

    An image leaves the search as soon as a point on its path is confirmed adversarial, and only images
    that survive a restart see the next one. A pixel whose gradient is zero or not a number stands still.

    Args:
        steps: Steps in each restart, at least 1.
        step_size: Length of a step in pixel units of [0, 1], in the threat model's norm; by default
            2.5 * eps / steps, which reaches the border of the ball from anywhere inside.
        restarts: Paths for an image, at least 1.
        random_start: Whether the first path starts at a point drawn uniformly from the ball, as all later
            ones do; otherwise it starts at the image itself.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``; towards the target set if the goal is targeted.
        early_stop: Whether an image leaves with its first success. Without it every path is walked to its
            end, at full cost, and the point of the largest margin comes back.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    refills: ClassVar[bool] = True

    steps: int = 50
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: LossName = "ce"
    early_stop: bool = True

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
        engine = Engine(classifier, images, labels, stream, masks, early_stop=self.early_stop)
        for restart in range(self.restarts):
            engine.run(PGDSearch(attack=self, threat=threat), engine.items(restart))
        return engine.points

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """All steps of all restarts, and the look at each path's last point."""
        return (self.restarts * (self.steps + 1), self.restarts * self.steps) if threat.eps else (0, 0)

    def check(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check`; also refuses a loss that is undefined here."""
        super().check(threat, classifier)
        check_defined(self.loss, threat, classifier.num_classes)

    def warnings(self, threat: ThreatModel) -> list[str]:
        """A step size that overshoots the ball, or that cannot cross half of it."""
        length = self.length(threat)
        if threat.eps == 0 or (0.5 * threat.eps / self.steps <= length <= 2 * threat.eps):
            return []
        if length > 2 * threat.eps:
            return [f"PGD's step_size {length:.4g} is more than twice eps {threat.eps:.4g}: it jumps about"]
        reach = f"{self.steps} steps of {length:.4g} do not go half the way to eps {threat.eps:.4g}"
        return [f"PGD's {reach}: raise step_size or steps"]

    def length(self, threat: ThreatModel) -> float:
        """Length of a step in pixel units."""
        return 2.5 * threat.eps / self.steps if self.step_size is None else self.step_size


@dataclass(kw_only=True)
class _Bounds(Rows):
    """Where pixels may go under Linf; None under the other norms."""

    low: Tensor | None
    high: Tensor | None


class PGDSearch(Search[_Bounds]):
    """PGD's paths on the engine.

    Args:
        attack: The hyper-parameters.
        threat: Budget, goal and region.
    """

    def __init__(self, attack: PGD, threat: ThreatModel) -> None:
        self.attack, self.threat, self.steps = attack, threat, attack.steps

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> _Bounds:
        """Random starts, but for a first path that is to begin at the image."""
        ball = self.ball(front)
        if self.attack.random_start or bool((front.restarts > 0).any()):
            delta = random_start(
                stream,
                tuple(front.points.shape[1:]),
                ball,
                draw=draws,
                device=front.points.device,
                masks=front.masks,
            )
            front.points = to_ball_and_box(front.originals + delta, front.originals, ball, front.masks)
        if self.threat.norm != "Linf":
            return _Bounds(low=None, high=None)
        low, high = bounds(front.originals, ball, front.masks)
        return _Bounds(low=low, high=high)

    def loss(self, front: Front) -> Callable[[Tensor], Tensor]:
        """The attack's loss, steered by the goal."""
        return objective(self.attack.loss, self.threat, front.labels)

    def step(self, front: Front, state: _Bounds, seen: Seen) -> Tensor:
        """One step along the gradient, brought back into the ball."""
        length = self.attack.length(self.threat)
        if state.low is not None:
            # from here on in one memory: fresh memory costs more than the sums
            moved = seen.gradient.sign()
            torch.add(front.points, moved, alpha=length, out=moved)
            return torch.clamp(moved, state.low, state.high, out=moved)
        gradient = seen.gradient if front.masks is None else seen.gradient * front.masks
        moved = front.points + length * steepest(gradient, self.threat.norm)
        return to_ball_and_box(moved, front.originals, self.ball(front), front.masks)
