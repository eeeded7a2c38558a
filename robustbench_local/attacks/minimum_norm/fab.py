"""FAB: projections onto the linearized decision boundary, biased towards the image; no step size to tune."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.hyperplane_projection import compute_hyperplane_step
from robustbench_local.attacks.core.in_ball_filter import score_points_in_ball
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.attacks.core.objective import check_counts, compute_success_margin
from robustbench_local.attacks.core.random_starts import draw_sphere_starts
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.target_ranking import rank_targets
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import PerImageBalls, compute_norms
from robustbench_local.threats.threat_model import ThreatModel

ALPHA_MAX = 0.1
"""Maximum weight of the step that starts at the original (alpha_max in the paper)."""
OVERSHOOT = 1.05
"""Relative overshoot beyond the linear boundary (eta in the paper)."""
KEPT_DISTANCE_SHARE = 0.9
"""Fraction of its distance from the original at which a success continues (beta in the paper)."""
STEP_FACTORS = {"Linf": 1.0, "L2": 1.0, "L1": 1.5}
"""Evaluations per step of the paper. The steps that only move a success back are compensated under L1, where
a step moves few pixels and the path is the longest; under the other norms they have no measurable cost."""
_MIN_STEP = 1e-8
"""Minimum step length, in pixel units."""


@dataclass(frozen=True, kw_only=True)
class FAB(EngineAttack):
    """Targeted FAB: the fast adaptive boundary attack towards each of the most likely classes.

    It searches for the nearest point of a class and does not use the radius. The search for an image ends as
    soon as a point inside the threat model's ball is confirmed adversarial.

    Args:
        steps: Steps towards each class in each restart, at least 1; half as many again under L1.
        restarts: Paths towards each class, at least 1. The first starts at the image itself, later ones at a
            random point at half the radius.
        targets: Maximum number of target classes per image, at least 1.

    Raises:
        ConfigError: If a number is out of range.

    Source: Croce & Hein 2020, arXiv:1907.02044, algorithm 1; targets as in arXiv:2003.01690, section 5.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    refills_batches: ClassVar[bool] = True

    steps: int = 100
    restarts: int = 1
    targets: int = 9

    def __post_init__(self) -> None:
        check_counts("FAB", steps=self.steps, restarts=self.restarts, targets=self.targets)

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run paths of every unfinished image towards each of its target classes, side by side."""
        targets = rank_targets(engine, threat, self.targets)
        for restart in range(self.restarts):
            engine.run(
                FABSearch(threat=threat, steps=self.steps), engine.build_items(restart, targets=targets)
            )

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of the ranking, of all steps of all paths and of each path's last point."""
        paths = self.restarts * min(self.targets, len(threat.targets) or self.targets)
        search_steps = FABSearch(threat=threat, steps=self.steps).steps
        return (1 + paths * (search_steps + 1), paths * search_steps) if threat.eps else (0, 0)


class FABSearch(Search[TensorTable]):
    """FAB's paths on the engine, towards the item's target; without a target, towards the runner-up class.

    One pass per step serves both the linear model of the boundary and the success check. The paper checks
    each point. For a success it makes a second pass at the point moved back towards the original, which gives
    the next linear model; all other points it evaluates twice in the same place. Here moving a success back
    is a step like any other.

    Args:
        threat: Budget, goal and region.
        steps: Steps of a path, counted as in the paper.
        name: Name of the stage.
    """

    def __init__(self, *, threat: ThreatModel, steps: int, name: str = "fab-t") -> None:
        self.threat, self.name = threat, name
        self.steps = math.ceil(STEP_FACTORS[threat.norm] * steps)

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> TensorTable:
        """Start first paths at the image, later ones at half the radius."""
        again = front.restarts > 0
        if bool(again.any()):
            ball = self.get_ball(front)
            start = draw_sphere_starts(front, stream, draws, PerImageBalls(ball.norm, again * ball.eps / 2))
            front.points = start
        return TensorTable()

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the logit of the target class minus the label's."""
        labels, targets = front.labels, front.targets
        if targets is None:
            return lambda logits: compute_margin(logits, labels)
        pair = torch.stack([targets, labels], dim=1)
        return lambda logits: logits.gather(1, pair).mul(logits.new_tensor([1.0, -1.0])).sum(dim=1)

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score points; only points inside the ball count as success."""
        return score_points_in_ball(front, logits, self.threat, self.get_ball(front))

    def step(self, front: ActiveSet, state: TensorTable, evaluation: PointEvaluation) -> Tensor:  # noqa: ARG002 - it remembers nothing
        """Move a success back towards the original; from any other point, step over the linear boundary."""
        norm = self.threat.norm
        originals = front.originals.flatten(1)
        away = front.points.flatten(1) - originals
        gradient, gaps = _compute_linear_model(front, evaluation)
        from_here = compute_hyperplane_step(originals + away, gradient, gaps, norm)
        from_original = compute_hyperplane_step(
            originals, gradient, gaps - (gradient * away).sum(dim=1), norm
        )
        step_length, original_step_length = (
            compute_norms(from_here, norm).clamp_min(_MIN_STEP),
            compute_norms(from_original, norm).clamp_min(_MIN_STEP),
        )
        pull = (step_length / (step_length + original_step_length)).clamp_max(ALPHA_MAX)
        reached = compute_success_margin(evaluation.logits, front.labels, self.threat) > 0
        # original + kept_share * away + ahead * from_here + aside * from_original
        kept_share = torch.where(reached, KEPT_DISTANCE_SHARE, 1 - pull)[:, None]
        ahead, aside = ((OVERSHOOT * share).masked_fill(reached, 0)[:, None] for share in (1 - pull, pull))
        moved = torch.addcmul(originals, away, kept_share).addcmul_(from_here, ahead)
        return moved.addcmul_(from_original, aside).clamp_(0, 1).view_as(front.points)


def _compute_linear_model(front: ActiveSet, evaluation: PointEvaluation) -> tuple[Tensor, Tensor]:
    """Return the gradient, (W, D), and value, (W,), of the loss; both 0 if either is not finite."""
    gradient = evaluation.gradient if front.masks is None else evaluation.gradient * front.masks
    gradient = gradient.flatten(1)
    usable = torch.isfinite(gradient.sum(dim=1) + evaluation.losses)
    return gradient.masked_fill(~usable[:, None], 0.0), evaluation.losses.masked_fill(~usable, 0.0)
