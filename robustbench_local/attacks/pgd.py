"""PGD: small steps along the gradient, each projected into the ball, from several starting points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.objective import LossName, build_objective, check_loss, check_loss_defined
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.classifier import Classifier
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import (
    compute_bounds,
    compute_steepest_step,
    project_to_box,
    sample_random_start,
)
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class PGD(EngineAttack):
    """Projected gradient descent on the loss, keeping the best point of every path.

    The search for an image ends as soon as a point of a path is confirmed adversarial, and a restart runs
    only on images without a success. A pixel whose gradient is zero or not a number does not move.

    Args:
        steps: Steps in each restart, at least 1.
        step_size: Length of a step in pixel units of [0, 1], in the threat model's norm; by default 2.5 * eps
            / steps, which reaches the boundary of the ball from any point inside.
        restarts: Paths per image, at least 1.
        random_start: Whether the first path starts at a point drawn uniformly from the ball, as all later
            paths do; otherwise it starts at the image itself.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``; towards the target set if the goal is targeted.
        early_stop: Whether the search for an image ends with its first success. Otherwise every path runs all
            its steps, at full cost, and the result is the point of the largest margin.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    refills_batches: ClassVar[bool] = True

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

    def build_engine(self, inputs: AttackInputs) -> Engine:
        """See :meth:`EngineAttack.build_engine`; searches end early only with ``early_stop``."""
        return Engine.from_inputs(inputs, early_stop=self.early_stop)

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run a path of every unfinished image from each start."""
        for restart in range(self.restarts):
            engine.run(PGDSearch(attack=self, threat=threat), engine.build_items(restart))

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of all steps of all restarts, and of each path's last point."""
        return (self.restarts * (self.steps + 1), self.restarts * self.steps) if threat.eps else (0, 0)

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check_support`; also refuses a loss that is undefined for the goal."""
        super().check_support(threat, classifier)
        check_loss_defined(self.loss, threat, classifier.num_classes)

    def list_warnings(self, threat: ThreatModel) -> list[str]:
        """Warn of a step size that overshoots the ball, or that cannot cross half of it."""
        length = self.get_step_size(threat)
        if threat.eps == 0 or (0.5 * threat.eps / self.steps <= length <= 2 * threat.eps):
            return []
        if length > 2 * threat.eps:
            return [f"PGD's step_size {length:.4g} is more than twice eps {threat.eps:.4g}: it jumps about"]
        reach = (
            f"{format_count(self.steps, 'step')} of {length:.4g} "
            f"{choose_form(self.steps, 'does', 'do')} not go half the way to eps {threat.eps:.4g}"
        )
        return [f"PGD's {reach}: raise step_size or steps"]

    def get_step_size(self, threat: ThreatModel) -> float:
        """Return the length of a step in pixel units."""
        return 2.5 * threat.eps / self.steps if self.step_size is None else self.step_size


@dataclass(kw_only=True)
class _PixelBounds(TensorTable):
    """The bounds of the pixels under Linf; None under the other norms."""

    lower_bounds: Tensor | None
    upper_bounds: Tensor | None


class PGDSearch(Search[_PixelBounds]):
    """PGD's paths on the engine.

    Args:
        attack: The hyperparameters.
        threat: Budget, goal and region.
    """

    def __init__(self, attack: PGD, threat: ThreatModel) -> None:
        self.attack, self.threat, self.steps = attack, threat, attack.steps

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _PixelBounds:
        """Start at random points, except for a first path that starts at the image."""
        ball = self.get_ball(front)
        if self.attack.random_start or bool((front.restarts > 0).any()):
            delta = sample_random_start(
                stream,
                tuple(front.points.shape[1:]),
                ball,
                draw=draws,
                device=front.points.device,
                masks=front.masks,
            )
            front.points = project_to_box(front.originals + delta, front.originals, ball, front.masks)
        if self.threat.norm != "Linf":
            return _PixelBounds(lower_bounds=None, upper_bounds=None)
        low, high = compute_bounds(front.originals, ball, front.masks)
        return _PixelBounds(lower_bounds=low, upper_bounds=high)

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the attack's loss for the goal."""
        return build_objective(self.attack.loss, self.threat, front.labels)

    def step(self, front: ActiveSet, state: _PixelBounds, evaluation: PointEvaluation) -> Tensor:
        """Take one step along the gradient, projected into the ball."""
        length = self.attack.get_step_size(self.threat)
        if state.lower_bounds is not None:
            # in place from this line on: allocation costs more than the arithmetic
            moved = evaluation.gradient.sign()
            torch.add(front.points, moved, alpha=length, out=moved)
            return torch.clamp(moved, state.lower_bounds, state.upper_bounds, out=moved)
        gradient = evaluation.gradient if front.masks is None else evaluation.gradient * front.masks
        moved = front.points + length * compute_steepest_step(gradient, self.threat.norm)
        return project_to_box(moved, front.originals, self.get_ball(front), front.masks)
