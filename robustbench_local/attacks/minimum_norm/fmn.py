"""FMN: projected gradient steps in a ball whose radius is steered towards the border, in three norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.decision_boundary import DUAL
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import check_counts
from robustbench_local.attacks.core.search import Seen
from robustbench_local.attacks.core.work_items import Front, Rows
from robustbench_local.attacks.minimum_norm.base import NearestAttack
from robustbench_local.attacks.minimum_norm.nearest_search import (
    NearestSearch,
    annealed,
    even_odds,
    movable,
    room,
    usable,
)
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import Balls, column, norm_of, steepest, to_ball_and_box
from robustbench_local.threats.threat_model import ThreatModel

_LAST_GAMMA = 0.001
_LAST_STEP = 0.01


@dataclass(frozen=True, kw_only=True)
class FMN(NearestAttack):
    """Fast minimum-norm: PGD's step in a ball that shrinks after a success and grows after a failure.

    A step is a share of the present radius, along the gradient's sign (Linf) or direction (L2, L1), so that
    neither the number of pixels nor their scale plays a part; pixels that could only leave the box are passed
    over.

    Args:
        steps: Steps, at least 1.
        gamma: Share by which the radius changes in the first step, between 0 and 1; falls to .001.
        step_size: Length of the first step as a share of the radius, above 0; falls to a hundredth of it.
            With this default and gamma's, medians are smaller than with the paper's .05 and 1 on networks
            whose gradients mislead, and the same on others.

    Raises:
        ConfigError: If a number is out of range.

    Source: Pintor et al. 2021, arXiv:2102.12827, algorithm 1.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})

    steps: int = 100
    gamma: float = 0.2
    step_size: float = 0.5

    def __post_init__(self) -> None:
        check_counts("FMN", steps=self.steps)
        if not 0 < self.gamma < 1 or not self.step_size > 0:
            raise ConfigError(
                "FMN needs gamma between 0 and 1 and step_size above 0, "
                f"got {self.gamma} and {self.step_size}"
            )

    def search(self, engine: Engine, threat: ThreatModel) -> None:
        """One path."""
        engine.run(_FMNSearch(self, threat), engine.items())

    def passes(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """All steps, and the look at the last point."""
        return self.steps + 1, self.steps


@dataclass(kw_only=True)
class _Ball(Rows):
    """How far each item may go."""

    radius: Tensor
    """(W,)."""
    nearest: Tensor
    """(W,): distance of the nearest success; infinite before the first."""
    room: Tensor
    """(W,): the largest radius."""


class _FMNSearch(NearestSearch[_Ball]):
    def __init__(self, attack: FMN, threat: ThreatModel) -> None:
        self.attack, self.threat, self.steps = attack, threat, attack.steps

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> _Ball:  # noqa: ARG002
        """At the image."""
        nothing = front.points.new_zeros(len(front))
        return _Ball(radius=nothing, nearest=nothing + torch.inf, room=room(front, self.threat))

    def loss(self, front: Front) -> Callable[[Tensor], Tensor]:
        """The log odds of success: 0 near the border, as the paper's difference of logits is."""
        return even_odds(self.threat, front.labels)

    def step(self, front: Front, state: _Ball, seen: Seen) -> Tensor:
        """Steer the radius, and step inside the ball."""
        gradient, norm = movable(usable(seen.gradient, front), front.points), self.threat.norm
        self._steer(front, state, seen, gradient)
        share = annealed(front, self.steps, self.attack.step_size, _LAST_STEP * self.attack.step_size)
        length = column(share * state.radius, gradient)
        # under L1 the projection makes the change sparse: a sparse step would choose its pixels too early
        moved = front.points + length * steepest(gradient, "Linf" if norm == "Linf" else "L2")
        return to_ball_and_box(moved, front.originals, Balls(norm, state.radius), front.masks)

    def _steer(self, front: Front, state: _Ball, seen: Seen, gradient: Tensor) -> None:
        """Smaller after a success, larger after a failure; before any success, as far as the border seems."""
        success = self.succeeded(front, seen.logits)
        distance = norm_of(front.points - front.originals, self.threat.norm)
        state.nearest = torch.where(success, torch.minimum(distance, state.nearest), state.nearest)
        gamma = annealed(front, self.steps, self.attack.gamma, _LAST_GAMMA)
        slope = norm_of(gradient, DUAL[self.threat.norm])
        missing = torch.where(slope > 0, torch.nan_to_num(seen.losses).abs() / slope, torch.inf)
        # a little further than the border seems, or a straight border would be approached for ever
        grown = torch.where(state.nearest.isinf(), distance + missing, state.radius) * (1 + gamma)
        shrunk = torch.minimum(state.radius * (1 - gamma), state.nearest)
        state.radius = torch.where(success, shrunk, grown).minimum(state.room)
