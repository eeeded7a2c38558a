"""C&W: distance and margin in one loss, minimised in a space without a box; their weights are searched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import check_counts, objective
from robustbench_local.attacks.core.search import Seen
from robustbench_local.attacks.core.trade_off_search import Weight, first_weight, no_weight
from robustbench_local.attacks.core.work_items import Front, Rows
from robustbench_local.attacks.minimum_norm.base import NearestAttack
from robustbench_local.attacks.minimum_norm.nearest_search import NearestSearch, usable
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import column
from robustbench_local.threats.threat_model import ThreatModel

_EDGE = 0.01
"""Black and white start so far inside the box, in the range of tanh: at its very ends nothing can move."""
_MOMENTA = (0.9, 0.999)
_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class CW(NearestAttack):
    """Carlini and Wagner's attack for L2: squared distance plus c times the missing margin of the raw logits.

    Pixels are ``(tanh(w) + 1) / 2``, which keeps them in the box, and w is found with Adam. Each image has a
    search for c of its own, in units that its classifier's scale drops out of: at c = 1 the loss of a linear
    classifier has its minimum just on the border.

    Args:
        steps: Steps for each c, at least 1.
        searches: Values of c that are tried, at least 1.
        learning_rate: Adam's, above 0.
        c: The first c, above 0; tenfold until a success, then halved into.

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

    def search(self, engine: Engine, threat: ThreatModel) -> None:
        """All searches for c, one after another."""
        engine.run(_CWSearch(self, threat), engine.items())

    def passes(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """All steps of all searches, and the look at the last point."""
        steps = self.steps * self.searches
        return steps + 1, steps


@dataclass(kw_only=True)
class _Adam(Rows):
    """Where each item is in the space without a box, and Adam's memory."""

    variables: Tensor
    """(W, C, H, W)."""
    mean: Tensor
    """(W, C, H, W), of the gradient."""
    square: Tensor
    """(W, C, H, W), of the squared gradient."""
    weight: Weight
    """The search for c."""


class _CWSearch(NearestSearch[_Adam]):
    def __init__(self, attack: CW, threat: ThreatModel) -> None:
        self.attack, self.threat = attack, threat
        self.steps = attack.steps * attack.searches

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> _Adam:  # noqa: ARG002
        """At the image; what is seen there sets the unit of c."""
        return _Adam(
            variables=_unboxed(front.originals),
            mean=torch.zeros_like(front.points),
            square=torch.zeros_like(front.points),
            weight=no_weight(front),
        )

    def loss(self, front: Front) -> Callable[[Tensor], Tensor]:
        """The margin of the raw logits."""
        return objective("margin", self.threat, front.labels)

    def step(self, front: Front, state: _Adam, seen: Seen) -> Tensor:
        """One step of Adam; after the last one for a c, the next c from the start again."""
        gradient, success = usable(seen.gradient, front), self.succeeded(front, seen.logits)
        first_weight(state.weight, front, self.attack.c, _linear_weight(seen, gradient))
        state.weight.reached = state.weight.reached | success
        pull = 2 * (front.points - front.originals)
        push = column(torch.where(success, 0.0, state.weight.value), gradient) * gradient
        slope = 2 * front.points * (1 - front.points)  # of a pixel in its variable
        self._descend(front, state, (pull - push) * slope)
        over = (front.age + 1) % self.attack.steps == 0
        if bool(over.any()):
            again = over.to(gradient.device)
            state.weight.advance(again)
            where = column(again, gradient)
            state.variables = torch.where(where, _unboxed(front.originals), state.variables)
            state.mean, state.square = state.mean.masked_fill(where, 0), state.square.masked_fill(where, 0)
        points = (torch.tanh(state.variables) + 1) / 2
        return points if front.masks is None else torch.where(front.masks, points, front.originals)

    def _descend(self, front: Front, state: _Adam, gradient: Tensor) -> None:
        count = (front.age % self.attack.steps + 1).to(gradient)
        first, second = _MOMENTA
        state.mean = torch.lerp(gradient, state.mean, first)
        state.square = torch.lerp(gradient**2, state.square, second)
        mean = state.mean / column(1 - first**count, gradient)
        square = state.square / column(1 - second**count, gradient)
        state.variables = state.variables - self.attack.learning_rate * mean / (square.sqrt() + _TINY)


def _unboxed(images: Tensor) -> Tensor:
    """The variables of images, a hair inside the box."""
    return torch.atanh((2 * images - 1) * (1 - _EDGE))


def _linear_weight(seen: Seen, gradient: Tensor) -> Tensor:
    """The c beyond which a linear classifier is beaten, (W,): 2 * margin / slope**2."""
    slope = gradient.flatten(1).double().square().sum(dim=1)
    unit = 2 * seen.losses.double().abs() / slope
    return torch.where(unit.isfinite() & (unit > 0), unit, 1.0).to(gradient)
