"""EAD: the loss of C&W plus the L1 norm, so that few pixels change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import build_objective, check_counts
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.core.trade_off_search import (
    TradeOffWeight,
    build_unit_weight,
    set_first_weight,
)
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.attacks.minimum_norm.base import MinimumNormAttack
from robustbench_local.attacks.minimum_norm.nearest_search import (
    MinimumNormSearch,
    compute_search_radius,
    draw_outer_starts,
    drop_saturated_pixels,
    find_hopeless_items,
    select_finite_gradient,
)
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class EAD(MinimumNormAttack):
    """The elastic-net attack, by iterative shrinkage-thresholding; returns the success nearest in L1.

    Args:
        steps: Steps for each c, at least 1.
        searches: Number of values of c, at least 1.
        beta: Shrinkage of each pixel's change in a step, above 0.
        learning_rate: Length of the first step, above 0; decays to 0 as a square root.
        c: The first c, above 0; increased tenfold until a success, then bisected. Its unit is the weight at
            which the pixel of the largest gradient begins to move.

    Raises:
        ConfigError: If a number is out of range.

    Source: Chen et al. 2018, arXiv:1709.04114, algorithm 1 without its momentum; L1 decision rule.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L1"})

    steps: int = 1000
    searches: int = 9
    beta: float = 0.01
    learning_rate: float = 0.01
    c: float = 2.0

    def __post_init__(self) -> None:
        check_counts("EAD", steps=self.steps, searches=self.searches)
        if not (self.beta > 0 and self.learning_rate > 0 and self.c > 0):
            values = f"{self.beta}, {self.learning_rate} and {self.c}"
            raise ConfigError(f"EAD's beta, learning_rate and c must be above 0, got {values}")

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run all searches for c, one after another."""
        engine.run(_EADSearch(self, threat, engine), engine.build_items())

    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return the passes of all steps of all searches, and of the last point."""
        steps = self.steps * self.searches
        return steps + 1, steps


@dataclass(kw_only=True)
class _EADState(TensorTable):
    """What the next search for c needs."""

    outer_start: Tensor
    """(W, C, H, W): a random point, at which searches start once two from the image have failed."""
    weight: TradeOffWeight
    """The search for c."""


class _EADSearch(MinimumNormSearch[_EADState]):
    name = "ead"

    def __init__(self, attack: EAD, threat: ThreatModel, engine: Engine) -> None:
        self.attack, self.threat, self.engine = attack, threat, engine
        self.steps = attack.steps * attack.searches

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _EADState:
        """Start at the image; its evaluation sets the unit of c."""
        max_radius = compute_search_radius(front, self.threat)
        outer_start = draw_outer_starts(self.engine, front, self.threat, max_radius, stream, draws)
        return _EADState(outer_start=outer_start, weight=build_unit_weight(front))

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the margin of the raw logits."""
        return build_objective("margin", self.threat, front.labels)

    def step(self, front: ActiveSet, state: _EADState, evaluation: PointEvaluation) -> Tensor:
        """Descend the smooth terms and shrink every change; after the last step for a c, take the next c."""
        gradient, success = (
            select_finite_gradient(evaluation.gradient, front),
            self.has_succeeded(front, evaluation.logits),
        )
        set_first_weight(state.weight, front, self.attack.c, self._compute_moving_weight(front, gradient))
        state.weight.has_sufficed = state.weight.has_sufficed | success
        change = front.points - front.originals
        push = reshape_for_broadcast(torch.where(success, 0.0, state.weight.value), gradient) * gradient
        done = (front.age % self.attack.steps).to(gradient) / self.attack.steps
        length = reshape_for_broadcast(self.attack.learning_rate * (1 - done).sqrt(), gradient)
        moved = change + length * (push - 2 * change)
        shrunk = moved.sign() * (moved.abs() - self.attack.beta).clamp_min(0)
        over = ((front.age + 1) % self.attack.steps == 0).to(gradient.device)
        state.weight.advance_weight(over)
        is_hopeless = find_hopeless_items(front, self.attack.steps, state.weight)
        start = torch.where(reshape_for_broadcast(is_hopeless, shrunk), state.outer_start, front.originals)
        next_points = (front.originals + shrunk).clamp(0, 1)
        return torch.where(reshape_for_broadcast(over, shrunk), start, next_points)

    def _compute_moving_weight(self, front: ActiveSet, gradient: Tensor) -> Tensor:
        """Return the c at which the first pixel exceeds the shrinkage, (W,)."""
        largest = compute_norms(drop_saturated_pixels(gradient, front.points), "Linf")
        return torch.where(largest > 0, self.attack.beta / self.attack.learning_rate / largest, 1.0)
