"""FMN: gradient steps in a ball whose radius is steered towards the decision boundary, in three norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.decision_boundary import DUAL_NORMS
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import check_counts
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.attacks.minimum_norm.base import MinimumNormAttack
from robustbench_local.attacks.minimum_norm.nearest_search import (
    MinimumNormSearch,
    anneal_cosine,
    build_log_odds_loss,
    compute_search_radius,
    draw_outer_starts,
    drop_saturated_pixels,
    select_finite_gradient,
    split_steps,
)
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import (
    PerImageBalls,
    compute_norms,
    compute_steepest_step,
    project_to_box,
    reshape_for_broadcast,
)
from robustbench_local.threats.threat_model import ThreatModel

_LAST_GAMMA = 0.001
_LAST_STEP_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class FMN(MinimumNormAttack):
    """Fast minimum-norm attack: PGD steps in a ball that shrinks after a success and grows after a failure.

    A step is a fraction of the current radius, along the gradient's sign (Linf) or direction (L2, L1), so
    that it does not depend on the number or the scale of the pixels. Pixels that could only leave [0, 1] do
    not move.

    The paper's single path starts at the image, where the gradient of a network with clipped or saturated
    activations may be misleading or zero. Here it is the first of several. The others come from outside: they
    start at random points three times as far from the image as the nearest success so far, or, without one,
    at the largest distance of a path.

    Args:
        steps: Steps of all paths together, at least 1.
        paths: Maximum number of paths, at least 1, each with the same number of steps. A path has at least 20
            steps, so that few steps give fewer paths.
        gamma: Relative change of the radius in the first step, between 0 and 1; falls to .001.
        step_size: Length of the first step as a fraction of the radius, above 0; falls to a hundredth of it.
            With the defaults of this class, median distances are smaller than with the paper's .05 and 1 on
            networks with misleading gradients and the same on others.

    Raises:
        ConfigError: If a number is out of range.

    Source: Pintor et al. 2021, arXiv:2102.12827, algorithm 1.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})

    steps: int = 100
    paths: int = 4
    gamma: float = 0.2
    step_size: float = 0.5

    def __post_init__(self) -> None:
        check_counts("FMN", steps=self.steps, paths=self.paths)
        if not 0 < self.gamma < 1 or not self.step_size > 0:
            raise ConfigError(
                "FMN needs gamma between 0 and 1 and step_size above 0, "
                f"got {self.gamma} and {self.step_size}"
            )

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run all paths, one after another."""
        for path, steps in enumerate(split_steps(self.steps, self.paths)):
            engine.run(_FMNSearch(self, threat, engine, steps), engine.build_items(path))

    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return the passes of all steps, and of the last point of each path."""
        return self.steps + len(split_steps(self.steps, self.paths)), self.steps


@dataclass(kw_only=True)
class _FMNState(TensorTable):
    """The current radius of each item."""

    radius: Tensor
    """(W,)."""
    nearest_distance: Tensor
    """(W,): distance of the nearest success; infinite before the first."""
    max_radius: Tensor
    """(W,): the largest radius."""


class _FMNSearch(MinimumNormSearch[_FMNState]):
    name = "fmn"

    def __init__(self, attack: FMN, threat: ThreatModel, engine: Engine, steps: int) -> None:
        self.attack, self.threat, self.engine, self.steps = attack, threat, engine, steps

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _FMNState:
        """Start the first path at the image, the others at random points beyond the nearest success."""
        nothing = front.points.new_zeros(len(front))
        max_radius = compute_search_radius(front, self.threat)
        if int(front.restarts.max()) > 0:  # all items of a run are of the same path
            front.points = draw_outer_starts(self.engine, front, self.threat, max_radius, stream, draws)
        return _FMNState(radius=nothing, nearest_distance=nothing + torch.inf, max_radius=max_radius)

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the log odds of success: 0 near the boundary, as the paper's difference of logits."""
        return build_log_odds_loss(self.threat, front.labels)

    def step(self, front: ActiveSet, state: _FMNState, evaluation: PointEvaluation) -> Tensor:
        """Adapt the radius, and step inside the ball."""
        gradient, norm = (
            drop_saturated_pixels(select_finite_gradient(evaluation.gradient, front), front.points),
            self.threat.norm,
        )
        self._adapt_radius(front, state, evaluation, gradient)
        share = anneal_cosine(
            front, self.steps, self.attack.step_size, _LAST_STEP_SHARE * self.attack.step_size
        )
        length = reshape_for_broadcast(share * state.radius, gradient)
        # under L1 the projection makes the change sparse: a sparse step would select its pixels too early
        moved = front.points + length * compute_steepest_step(gradient, "Linf" if norm == "Linf" else "L2")
        return project_to_box(moved, front.originals, PerImageBalls(norm, state.radius), front.masks)

    def _adapt_radius(
        self, front: ActiveSet, state: _FMNState, evaluation: PointEvaluation, gradient: Tensor
    ) -> None:
        """Shrink the radius after a success, grow it after a failure; at first, estimate it."""
        success = self.has_succeeded(front, evaluation.logits)
        distance = compute_norms(front.points - front.originals, self.threat.norm)
        state.nearest_distance = torch.where(
            success, torch.minimum(distance, state.nearest_distance), state.nearest_distance
        )
        gamma = anneal_cosine(front, self.steps, self.attack.gamma, _LAST_GAMMA)
        slope = compute_norms(gradient, DUAL_NORMS[self.threat.norm])
        missing = torch.where(slope > 0, torch.nan_to_num(evaluation.losses).abs() / slope, torch.inf)
        # slightly beyond the estimated boundary, or the path would approach a straight boundary without
        # crossing it
        grown = torch.where(state.nearest_distance.isinf(), distance + missing, state.radius) * (1 + gamma)
        shrunk = torch.minimum(state.radius * (1 - gamma), state.nearest_distance)
        state.radius = torch.where(success, shrunk, grown).minimum(state.max_radius)
