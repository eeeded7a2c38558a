"""The refinement of a minimum-norm attack: from a success to the nearest success around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.decision_boundary import compute_class_leads, find_nearest_boundary
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.hyperplane_projection import compute_hyperplane_step
from robustbench_local.attacks.core.objective import build_objective
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.attacks.minimum_norm.nearest_search import (
    MinimumNormSearch,
    build_refinement_items,
    compute_target_margin,
    select_finite_gradient,
)
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

BOUNDARY_STEPS = 8
"""Steps along a boundary, each a forward and a backward pass; the last point is evaluated too."""
BISECTION_STEPS = 6
"""Evaluations of a bisection, each a forward pass."""
SWITCH_STEPS = 2
"""Evaluations of the boundaries of several classes."""
MAX_SWITCH_CLASSES = 9
"""Maximum number of those classes, each a backward pass."""
_ROUNDING_SHARE = 1e-7
"""Rounding error of the sums behind a logit, relative to the norms of the factors."""


def refine_successes(engine: Engine, threat: ThreatModel) -> None:
    """Move the engine's successes nearer: along a line, to a nearer boundary, and along it.

    Args:
        engine: An engine whose searches were all a ``MinimumNormSearch``.
        threat: Norm and goal.
    """
    move_to_boundary(engine, threat)
    engine.run(_RefinementSearch(engine, threat, BOUNDARY_STEPS), build_refinement_items(engine))


def move_to_boundary(engine: Engine, threat: ThreatModel) -> None:
    """Move the engine's successes along a line to a decision boundary, and from there to a nearer one.

    Args:
        engine: An engine whose searches were all a ``MinimumNormSearch``.
        threat: Norm and goal.
    """
    engine.run(_BisectionSearch(engine, threat), build_refinement_items(engine))
    engine.run(_BoundarySwitchSearch(engine, threat), build_refinement_items(engine))


def estimate_refinement_cost(threat: ThreatModel, steps: int = BOUNDARY_STEPS) -> tuple[int, int]:
    """Return the maximum forward and backward passes of ``refine_successes`` per image.

    Args:
        threat: Its goal decides the number of classes.
        steps: Steps along the boundary.
    """
    classes = min(MAX_SWITCH_CLASSES, len(threat.targets)) if threat.targets else MAX_SWITCH_CLASSES
    return BISECTION_STEPS + SWITCH_STEPS + 1 + steps + 1, SWITCH_STEPS * classes + steps


class _BoundarySwitchSearch(MinimumNormSearch[TensorTable]):
    """Steps to the decision boundary nearest to the original, of any class, linearized at the success."""

    name = "switch"
    steps = SWITCH_STEPS

    def __init__(self, engine: Engine, threat: ThreatModel) -> None:
        self.engine, self.threat = engine, threat

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> TensorTable:  # noqa: ARG002
        """Start at the best point of each image."""
        front.points = self.engine.points[front.rows]
        return TensorTable()

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the margins of the most likely classes, (W, T)."""
        return lambda logits: compute_class_leads(logits, front.labels, self.threat, MAX_SWITCH_CLASSES)

    def step(self, front: ActiveSet, state: TensorTable, evaluation: PointEvaluation) -> Tensor:  # noqa: ARG002
        """Step from the original to the nearest of the decision boundaries."""
        original, current, norm = front.originals.flatten(1), front.points.flatten(1), self.threat.norm
        normals = [
            select_finite_gradient(gradient, front).flatten(1)
            for gradient in evaluation.gradient.unbind(dim=1)
        ]
        delta = original - current
        pairs = zip(evaluation.losses.unbind(dim=1), normals, strict=True)
        gaps = [
            lead
            + (delta * class_normal).sum(dim=1)
            - compute_safe_margin(evaluation, class_normal, current, 1.0)
            for lead, class_normal in pairs
        ]
        chosen, distance = find_nearest_boundary(torch.stack(gaps, dim=1), torch.stack(normals, dim=1), norm)
        rows = torch.arange(len(chosen), device=chosen.device)
        normal, gap = torch.stack(normals, dim=1)[rows, chosen], torch.stack(gaps, dim=1)[rows, chosen]
        move = compute_hyperplane_step(original, normal, torch.where(distance.isfinite(), gap, 0.0), norm)
        return (original + move).clamp(0, 1).view_as(front.points)


@dataclass(kw_only=True)
class _BisectionState(TensorTable):
    """The bracket of the decision boundary on the line from the original to a success."""

    change: Tensor
    """(W, C, H, W): the whole line."""
    low: Tensor
    """(W,): fraction of the line at an unsuccessful point."""
    high: Tensor
    """(W,): fraction of the line at a success."""


class _BisectionSearch(MinimumNormSearch[_BisectionState]):
    """Bisection of the line between the original and a success."""

    name = "bisection"
    steps = BISECTION_STEPS - 1

    def __init__(self, engine: Engine, threat: ThreatModel) -> None:
        self.engine, self.threat = engine, threat

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _BisectionState:  # noqa: ARG002
        """Start in the middle."""
        change = self.engine.points[front.rows] - front.originals
        front.points = front.originals + change / 2
        nothing = change.new_zeros(len(front))
        return _BisectionState(change=change, low=nothing, high=nothing + 1.0)

    def step(self, front: ActiveSet, state: _BisectionState, evaluation: PointEvaluation) -> Tensor:
        """Move to the middle of the half that contains the boundary."""
        beyond, middle = self.has_succeeded(front, evaluation.logits), (state.low + state.high) / 2
        state.low, state.high = (
            torch.where(beyond, state.low, middle),
            torch.where(beyond, middle, state.high),
        )
        return (
            front.originals + reshape_for_broadcast((state.low + state.high) / 2, state.change) * state.change
        )


@dataclass(kw_only=True)
class _RefinementState(TensorTable):
    """The nearest success so far, and the classifier's linear model there."""

    points: Tensor
    """(W, C, H, W)."""
    gradient: Tensor
    """(W, C, H, W), of the margin."""
    margin: Tensor
    """(W,)."""
    distance: Tensor
    """(W,); infinite before the first evaluation."""
    step_share: Tensor
    """(W,) in (0, 1]: fraction of the distance to the linear model's solution that a trial goes."""


class _RefinementSearch(MinimumNormSearch[_RefinementState]):
    """Trial points between two points of the linearized decision boundary.

    One is the boundary point nearest to the current success, where the linear model is most accurate. The
    other is the one nearest to the original, which is exact for a linear classifier. A trial that succeeds at
    a smaller distance becomes the current success; after a failure the next trial goes half as far.

    Source: the combination of both projections follows Croce & Hein 2020, arXiv:1907.02044, eq. 8.
    """

    name = "refine"

    def __init__(self, engine: Engine, threat: ThreatModel, steps: int) -> None:
        self.engine, self.threat, self.steps = engine, threat, steps

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _RefinementState:  # noqa: ARG002
        """Start at the best point of each image."""
        front.points = self.engine.points[front.rows]
        nothing = front.points.new_zeros(len(front))
        return _RefinementState(
            points=front.points,
            gradient=torch.zeros_like(front.points),
            margin=nothing,
            distance=nothing + torch.inf,
            step_share=nothing + 1.0,
        )

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the margin, which is 0 on the boundary."""
        return build_objective("margin", self.threat, front.labels)

    def step(self, front: ActiveSet, state: _RefinementState, evaluation: PointEvaluation) -> Tensor:
        """Accept or reject the trial, and propose the next one."""
        self._accept_trials(front, state, evaluation)
        original, base, normal = (part.flatten(1) for part in (front.originals, state.points, state.gradient))
        # a failure may be due to rounding alone: the next trial also goes further beyond the boundary
        aim = compute_safe_margin(evaluation, normal, base, 1 / state.step_share - 1)
        from_original = state.margin - aim + ((original - base) * normal).sum(dim=1)
        norm = self.threat.norm
        bold = original + compute_hyperplane_step(original, normal, torch.nan_to_num(from_original), norm)
        timid = base + compute_hyperplane_step(base, normal, torch.nan_to_num(state.margin - aim), norm)
        trial = torch.lerp(timid, bold, state.step_share[:, None])
        return trial.clamp(0, 1).view_as(front.points)

    def _accept_trials(self, front: ActiveSet, state: _RefinementState, evaluation: PointEvaluation) -> None:
        distance = compute_norms(front.points - front.originals, self.threat.norm)
        nearer = self.has_succeeded(front, evaluation.logits) & (distance < state.distance)
        where = reshape_for_broadcast(nearer, front.points)
        state.points = torch.where(where, front.points, state.points)
        state.gradient = torch.where(
            where, select_finite_gradient(evaluation.gradient, front), state.gradient
        )
        state.margin = torch.where(nearer, evaluation.losses, state.margin)
        state.distance = torch.where(nearer, distance, state.distance)
        state.step_share = torch.where(nearer, (2 * state.step_share).clamp_max(1.0), state.step_share / 2)


def compute_safe_margin(
    evaluation: PointEvaluation, normals: Tensor, points: Tensor, rounding_factor: float | Tensor
) -> Tensor:
    """Return the margin to aim at, (W,): the smallest that is still a success in another batch.

    Args:
        evaluation: The evaluation; its logits set the margin of a success.
        normals: Gradients of the margin, (W, D).
        points: Points of the gradients, (W, D).
        rounding_factor: Reserve for the rounding of the sums behind a logit, in units of the usual error, or
            (W,).
    """
    rounding: Tensor = torch.linalg.vector_norm(normals, dim=1) * torch.linalg.vector_norm(points, dim=1)
    return compute_target_margin(evaluation.logits) + rounding_factor * _ROUNDING_SHARE * rounding
