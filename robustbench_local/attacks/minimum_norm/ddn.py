"""DDN: gradient steps on a sphere whose radius shrinks after each success and grows after each failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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
from robustbench_local.threats.lp_ball import compute_norms, compute_steepest_step, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_STEP_SHARES = (1.0, 0.01)
"""Length of the first and of the last step as a fraction of the radius (alpha in the paper)."""
_LAST_GAMMA = 0.005
_FIRST_RADIUS = 1.0


@dataclass(frozen=True, kw_only=True)
class DDN(MinimumNormAttack):
    """Decoupled direction and norm: the gradient gives the direction, success or failure the radius.

    Two things differ from the paper, where gamma is .05 throughout and steps are in pixel units. The radius
    changes fast at first and slowly at the end, and a step is a fraction of the radius. Distances are up to a
    tenth shorter on networks with misleading gradients and the same on others. Pixels that could only leave
    [0, 1] do not move. As in :class:`FMN`, the first of several paths starts at the image, the others at
    random points beyond the nearest success so far.

    Args:
        steps: Steps of all paths together, at least 1.
        paths: Maximum number of paths, at least 1; each has at least 20 steps.
        gamma: Relative change of the radius in the first step, between 0 and 1; falls to .005.

    Raises:
        ConfigError: If a number is out of range.

    Source: Rony et al. 2019, arXiv:1811.09600, algorithm 1, without its rounding to 8 bits.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L2"})

    steps: int = 100
    paths: int = 4
    gamma: float = 0.2

    def __post_init__(self) -> None:
        check_counts("DDN", steps=self.steps, paths=self.paths)
        if not 0 < self.gamma < 1:
            raise ConfigError(f"DDN's gamma must be between 0 and 1, got {self.gamma}")

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run all paths, one after another."""
        for path, steps in enumerate(split_steps(self.steps, self.paths)):
            engine.run(_DDNSearch(self, threat, engine, steps), engine.build_items(path))

    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return the passes of all steps, and of the last point of each path."""
        return self.steps + len(split_steps(self.steps, self.paths)), self.steps


@dataclass(kw_only=True)
class _DDNState(TensorTable):
    """The next point of each item."""

    radius: Tensor
    """(W,)."""
    max_radius: Tensor
    """(W,): the largest radius."""


class _DDNSearch(MinimumNormSearch[_DDNState]):
    name = "ddn"

    def __init__(self, attack: DDN, threat: ThreatModel, engine: Engine, steps: int) -> None:
        self.attack, self.threat, self.engine, self.steps = attack, threat, engine, steps

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _DDNState:
        """Start the first path at the image, the others at random points beyond the nearest success."""
        radius = front.points.new_full((len(front),), _FIRST_RADIUS)
        max_radius = compute_search_radius(front, self.threat)
        if int(front.restarts.max()) > 0:  # all items of a run are of the same path
            front.points = draw_outer_starts(self.engine, front, self.threat, max_radius, stream, draws)
            radius = compute_norms(front.points - front.originals, "L2")
        return _DDNState(radius=radius, max_radius=max_radius)

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return a monotone function of the cross-entropy."""
        return build_log_odds_loss(self.threat, front.labels)

    def step(self, front: ActiveSet, state: _DDNState, evaluation: PointEvaluation) -> Tensor:
        """Step along the gradient, and from there to the sphere."""
        gamma = anneal_cosine(front, self.steps, self.attack.gamma, _LAST_GAMMA)
        change = torch.where(self.has_succeeded(front, evaluation.logits), 1 - gamma, 1 + gamma)
        state.radius = (state.radius * change).minimum(state.max_radius)
        length = reshape_for_broadcast(
            state.radius * anneal_cosine(front, self.steps, *_STEP_SHARES), front.points
        )
        gradient = drop_saturated_pixels(select_finite_gradient(evaluation.gradient, front), front.points)
        delta = front.points - front.originals + length * compute_steepest_step(gradient, "L2")
        shrink = state.radius / compute_norms(delta, "L2").clamp_min(1e-12)
        return (front.originals + delta * reshape_for_broadcast(shrink, delta)).clamp(0, 1)
