"""C&W: distance and margin in one unconstrained loss; the weight of the margin is searched."""

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
    find_hopeless_items,
    select_finite_gradient,
)
from robustbench_local.double_precision import to_float64
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_TANH_MARGIN_SHARE = 0.01
"""Offset of 0 and 1 from the limits of tanh, where the gradient vanishes."""
_ADAM_BETAS = (0.9, 0.999)
_ADAM_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class CW(MinimumNormAttack):
    """Carlini and Wagner's attack for L2: squared distance plus c times the missing margin of the raw logits.

    Pixels are ``(tanh(w) + 1) / 2``, which keeps them in [0, 1], and Adam minimizes over w. The search for c
    is separate for each image. The unit of c cancels the classifier's scale: at c = 1 the loss of a linear
    classifier has its minimum on the decision boundary.

    Args:
        steps: Steps for each c, at least 1.
        searches: Number of values of c, at least 1.
        learning_rate: Adam's, above 0.
        c: The first c, above 0; increased tenfold until a success, then bisected.

    Raises:
        ConfigError: If a number is out of range.

    Source: Carlini & Wagner 2017, arXiv:1608.04644, section VI.A with f_6; Kingma & Ba 2015, arXiv:1412.6980.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L2"})

    steps: int = 1000
    searches: int = 9
    learning_rate: float = 0.01
    c: float = 2.0

    def __post_init__(self) -> None:
        check_counts("CW", steps=self.steps, searches=self.searches)
        if not (self.learning_rate > 0 and self.c > 0):
            raise ConfigError(f"CW's learning_rate and c must be above 0, got {self.learning_rate}, {self.c}")

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run all searches for c, one after another."""
        engine.run(_CWSearch(self, threat, engine), engine.build_items())

    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return the passes of all steps of all searches, and of the last point."""
        steps = self.steps * self.searches
        return steps + 1, steps


@dataclass(kw_only=True)
class _CWState(TensorTable):
    """The unconstrained variable w of each item, and the state of Adam."""

    tanh_variables: Tensor
    """(W, C, H, W)."""
    gradient_mean: Tensor
    """(W, C, H, W), of the gradient."""
    squared_gradient_mean: Tensor
    """(W, C, H, W), of the squared gradient."""
    outer_start: Tensor
    """(W, C, H, W): a random point, at which searches start once two from the image have failed."""
    weight: TradeOffWeight
    """The search for c."""


class _CWSearch(MinimumNormSearch[_CWState]):
    name = "cw"

    def __init__(self, attack: CW, threat: ThreatModel, engine: Engine) -> None:
        self.attack, self.threat, self.engine = attack, threat, engine
        self.steps = attack.steps * attack.searches

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _CWState:
        """Start at the image; its evaluation sets the unit of c."""
        return _CWState(
            tanh_variables=_map_to_tanh_space(front.originals),
            gradient_mean=torch.zeros_like(front.points),
            squared_gradient_mean=torch.zeros_like(front.points),
            outer_start=draw_outer_starts(
                self.engine, front, self.threat, compute_search_radius(front, self.threat), stream, draws
            ),
            weight=build_unit_weight(front),
        )

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the margin of the raw logits."""
        return build_objective("margin", self.threat, front.labels)

    def step(self, front: ActiveSet, state: _CWState, evaluation: PointEvaluation) -> Tensor:
        """Take one step of Adam; after the last step for a c, restart with the next c."""
        gradient, success = (
            select_finite_gradient(evaluation.gradient, front),
            self.has_succeeded(front, evaluation.logits),
        )
        set_first_weight(state.weight, front, self.attack.c, _compute_linear_weight(evaluation, gradient))
        state.weight.has_sufficed = state.weight.has_sufficed | success
        pull = 2 * (front.points - front.originals)
        push = reshape_for_broadcast(torch.where(success, 0.0, state.weight.value), gradient) * gradient
        slope = 2 * front.points * (1 - front.points)  # derivative of a pixel in its variable
        self._apply_adam_step(front, state, (pull - push) * slope)
        over = (front.age + 1) % self.attack.steps == 0
        if bool(over.any()):
            again = over.to(gradient.device)
            state.weight.advance_weight(again)
            where = reshape_for_broadcast(again, gradient)
            is_hopeless = find_hopeless_items(front, self.attack.steps, state.weight)
            start = torch.where(
                reshape_for_broadcast(is_hopeless, gradient), state.outer_start, front.originals
            )
            state.tanh_variables = torch.where(where, _map_to_tanh_space(start), state.tanh_variables)
            state.gradient_mean, state.squared_gradient_mean = (
                state.gradient_mean.masked_fill(where, 0),
                state.squared_gradient_mean.masked_fill(where, 0),
            )
        points = (torch.tanh(state.tanh_variables) + 1) / 2
        return points if front.masks is None else torch.where(front.masks, points, front.originals)

    def _apply_adam_step(self, front: ActiveSet, state: _CWState, gradient: Tensor) -> None:
        count = (front.age % self.attack.steps + 1).to(gradient)
        first, second = _ADAM_BETAS
        state.gradient_mean = torch.lerp(gradient, state.gradient_mean, first)
        state.squared_gradient_mean = torch.lerp(gradient**2, state.squared_gradient_mean, second)
        mean = state.gradient_mean / reshape_for_broadcast(1 - first**count, gradient)
        square = state.squared_gradient_mean / reshape_for_broadcast(1 - second**count, gradient)
        state.tanh_variables = state.tanh_variables - self.attack.learning_rate * mean / (
            square.sqrt() + _ADAM_EPSILON
        )


def _map_to_tanh_space(images: Tensor) -> Tensor:
    """Map images to the unconstrained variable, slightly inside the box."""
    return torch.atanh((2 * images - 1) * (1 - _TANH_MARGIN_SHARE))


def _compute_linear_weight(evaluation: PointEvaluation, gradient: Tensor) -> Tensor:
    """Return the c beyond which the attack on a linear classifier succeeds, (W,): 2 * margin / slope**2."""
    slope = to_float64(gradient.flatten(1)).square().sum(dim=1)
    unit = 2 * to_float64(evaluation.losses).abs() / slope
    return torch.where(unit.isfinite() & (unit > 0), unit, 1.0).to(gradient)
