"""Robustness curves: the smallest radius of a list at which an attack on each image succeeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import Measure
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.objective import (
    LossName,
    build_objective,
    check_counts,
    check_loss,
    check_loss_defined,
    evaluate_goal,
)
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import (
    broadcast_radius,
    compute_norms,
    compute_steepest_step,
    project_to_box,
    reshape_for_broadcast,
    sample_random_start,
)
from robustbench_local.threats.threat_model import ThreatModel

RADIUS_SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)
"""Default radii, as fractions of the threat model's radius."""
_PATH_LENGTH_RADII = 2.5
"""Total length of all steps, in radii."""
_RADIUS_MARGIN_SHARE = 1e-6
"""Relative shrinkage of the balls, plus a tenth of it in pixel units, so that rounding never leads
outside."""


Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True, kw_only=True)
class Curve(EngineAttack):
    """PGD at the radii of a list, bisected for each image down to a single radius.

    A success at one radius counts at all larger radii, so the curve is monotone. A success at a smaller
    distance than its radius rules out several radii at once. After a failure, the path at the next, larger
    radius starts at the best point of the failed path. After a success, the path at the next, smaller radius
    starts at that point, projected into the smaller ball.

    Args:
        radii: In pixel units of [0, 1]. Radii of at least the threat model's eps are skipped: eps itself is
            always the last radius. By default 1/32, 1/16, 1/8, 3/16, 1/4, 3/8 and 1/2 of eps.
        steps: Steps of a path, at least 1; each is 2.5 * radius / steps long.
        restarts: Paths at each radius, at least 1.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1, for the paths.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    measure: ClassVar[Measure] = "distance"

    radii: tuple[float, ...] | None = None
    steps: int = 20
    restarts: int = 1
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_counts("Curve", steps=self.steps, restarts=self.restarts)
        if any(not (math.isfinite(radius) and radius > 0) for radius in self.radii or ()):
            raise ConfigError(f"Curve's radii must be above 0 and finite, got {list(self.radii or ())}")

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run paths at radii of the list, which each image's results bisect."""
        self._bisect_radii(engine, threat)

    def select_candidates(self, engine: Engine, threat: ThreatModel) -> Tensor:  # noqa: ARG002
        """Return the success at the smallest radius; the original if there is none."""
        success = engine.scores > 0
        return torch.where(reshape_for_broadcast(success, engine.images), engine.points, engine.images)

    def list_radii(self, threat: ThreatModel) -> tuple[float, ...]:
        """Return the radii of the search, ascending, the threat model's radius last."""
        candidate_radii = (
            (share * threat.eps for share in RADIUS_SHARES) if self.radii is None else self.radii
        )
        return (*sorted({radius for radius in candidate_radii if radius < threat.eps}), threat.eps)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of all paths at the maximum number of radii of the bisection."""
        if threat.eps == 0:
            return 0, 0
        gap, paths = len(self.list_radii(threat)), 0
        while gap:
            gap, paths = max(_split_gap(gap), gap - _split_gap(gap) - 1), paths + self.restarts
        return paths * (self.steps + 1), paths * self.steps

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check_support`; also refuses a loss that is undefined for the goal."""
        super().check_support(threat, classifier)
        check_loss_defined(self.loss, threat, classifier.num_classes)

    def _bisect_radii(self, engine: Engine, threat: ThreatModel) -> None:
        """Run paths until no radius is left between successful and unsuccessful ones."""
        ladder = torch.tensor(self.list_radii(threat), device=engine.images.device)
        failed_count = torch.zeros(len(engine.images), dtype=torch.int64, device=engine.images.device)
        # index of the smallest successful radius; the first `failed_count` radii failed
        success_index = torch.full_like(failed_count, len(ladder))
        while bool((failed_count < success_index).any()):
            middle = failed_count + _split_gap(success_index - failed_count)
            eps = (ladder * (1 - _RADIUS_MARGIN_SHARE) - _RADIUS_MARGIN_SHARE / 10).clamp_min(0)[
                middle.clamp_max(len(ladder) - 1)
            ]
            for restart in range(self.restarts):
                engine.finished = success_index <= middle
                engine.run(_CurveSearch(self, threat, engine), engine.build_items(restart, eps=eps))
                success_index = torch.minimum(
                    success_index, _find_smallest_radius(engine, ladder, threat.norm)
                )
            failed_count = torch.where(success_index > middle, middle + 1, failed_count)


def _find_smallest_radius(engine: Engine, ladder: Tensor, norm: str) -> Tensor:
    """Return the index of the smallest radius that contains each image's nearest success, (N,)."""
    distance = compute_norms(engine.points - engine.images, norm)
    index = torch.searchsorted(ladder, distance)
    return torch.where(engine.scores > 0, index, len(ladder))


def _split_gap(gap: Count) -> Count:
    """Return three quarters of the gap: a success takes a few steps, a failure all of them."""
    return 3 * gap // 4


class _CurveSearch(Search[TensorTable]):
    """PGD paths, each in a ball of its own radius."""

    name = "curve"

    def __init__(self, attack: Curve, threat: ThreatModel, engine: Engine) -> None:
        self.attack, self.threat, self.engine, self.steps = attack, threat, engine, attack.steps

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> TensorTable:
        """Start first paths at the results of other radii, if any; all others at random."""
        shape, ball = tuple(front.points.shape[1:]), self.get_ball(front)
        delta = sample_random_start(
            stream, shape, ball, draw=draws, device=front.points.device, masks=front.masks
        )
        has_start = (front.restarts == 0) & (self.engine.scores[front.rows] > -torch.inf)
        start = torch.where(
            reshape_for_broadcast(has_start, delta), self.engine.points[front.rows], front.originals + delta
        )
        front.points = project_to_box(start, front.originals, ball, front.masks)
        return TensorTable()

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the attack's loss for the goal."""
        return build_objective(self.attack.loss, self.threat, front.labels)

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score successes by the inverse of their distance, which end the path, others by their margin."""
        margins, reached = evaluate_goal(logits, front.labels, self.threat)
        distance = compute_norms(front.points - front.originals, self.threat.norm)
        return torch.where(reached, 1 / distance, margins.clamp_max(0)), reached

    def step(self, front: ActiveSet, state: TensorTable, evaluation: PointEvaluation) -> Tensor:  # noqa: ARG002
        """Take one step in proportion to the item's radius, projected into its ball."""
        ball = self.get_ball(front)
        gradient = evaluation.gradient if front.masks is None else evaluation.gradient * front.masks
        length = broadcast_radius(ball, gradient) * (_PATH_LENGTH_RADII / self.steps)
        moved = front.points + length * compute_steepest_step(gradient, self.threat.norm)
        return project_to_box(moved, front.originals, ball, front.masks)
