"""The refinement of a success under L0: changed pixels that the success does not need are reset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import build_objective
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.attacks.minimum_norm.nearest_search import (
    MinimumNormSearch,
    build_refinement_items,
    select_finite_gradient,
)
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms, reshape_for_broadcast, select_largest_pixels
from robustbench_local.threats.threat_model import ThreatModel

_FIRST_GROUP_SHARE = 0.25
"""Share of the changed pixels that the first step resets together."""


def prune_successes(engine: Engine, threat: ThreatModel, steps: int) -> None:
    """Reset changed pixels of the engine's successes, as long as these stay successes.

    Args:
        engine: An engine whose searches were all a ``MinimumNormSearch``.
        threat: L0 and the goal.
        steps: Most steps, each a forward and a backward pass; the last point is evaluated too.
    """
    engine.run(_PruningSearch(engine, threat, steps), build_refinement_items(engine))


@dataclass(kw_only=True)
class _PruningState(TensorTable):
    """The success with the fewest pixels so far, and the pixels that it needs."""

    points: Tensor
    """(W, C, H, W)."""
    gradient: Tensor
    """(W, C, H, W), of the margin."""
    size: Tensor
    """(W,): number of changed pixels; infinite before the first evaluation."""
    needed: Tensor
    """(W, 1, H, W) boolean: pixels without which the success failed."""
    group: Tensor
    """(W,): number of pixels that the next step resets."""
    is_finished: Tensor
    """(W,) boolean: whether no pixel is left to try."""


class _PruningSearch(MinimumNormSearch[_PruningState]):
    """Resets the pixels that matter least for the margin, at first several together."""

    name = "prune"

    def __init__(self, engine: Engine, threat: ThreatModel, steps: int) -> None:
        self.engine, self.threat, self.steps = engine, threat, steps

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _PruningState:  # noqa: ARG002
        """Start at the best point of each image."""
        front.points = self.engine.points[front.rows]
        size = compute_norms(front.points - front.originals, self.threat.norm)
        return _PruningState(
            points=front.points,
            gradient=torch.zeros_like(front.points),
            size=torch.full_like(size, torch.inf),
            needed=torch.zeros_like(front.points[:, :1], dtype=torch.bool),
            group=(_FIRST_GROUP_SHARE * size).floor().clamp_min(1),
            is_finished=torch.zeros_like(front.done),
        )

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the margin."""
        return build_objective("margin", self.threat, front.labels)

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score as the base class; an item ends when no pixel is left to try."""
        state: _PruningState = front.state  # type: ignore[assignment]  # start_items made it
        scores, done = super().score_points(front, logits)
        return scores, done | state.is_finished

    def step(self, front: ActiveSet, state: _PruningState, evaluation: PointEvaluation) -> Tensor:
        """Keep what is still a success, and reset the next pixels."""
        self._judge_points(front, state, evaluation)
        changed = (state.points != front.originals).any(dim=1, keepdim=True)
        free = changed & ~state.needed
        count = free.flatten(1).sum(dim=1)
        state.is_finished = count == 0
        # the margin that each pixel contributes, if the classifier were linear
        shares = (state.gradient * (state.points - front.originals)).sum(dim=1, keepdim=True)
        group = torch.minimum(state.group, count)
        reset = select_largest_pixels((-shares).masked_fill(~free, -torch.inf), group)
        return torch.where(reset, front.originals, state.points)

    def _judge_points(self, front: ActiveSet, state: _PruningState, evaluation: PointEvaluation) -> None:
        size = compute_norms(front.points - front.originals, self.threat.norm)
        better = self.has_succeeded(front, evaluation.logits) & (size < state.size)
        failed, single = ~better & state.size.isfinite(), state.group == 1
        reset = (state.points != front.points).any(dim=1, keepdim=True)
        state.needed = state.needed | (reset & (failed & single)[:, None, None, None])
        state.group = torch.where(failed, (state.group / 2).floor(), state.group).clamp_min(1)
        where = reshape_for_broadcast(better, front.points)
        gradient = select_finite_gradient(evaluation.gradient, front)
        state.points = torch.where(where, front.points, state.points)
        state.gradient = torch.where(where, gradient, state.gradient)
        state.size = torch.where(better, size, state.size)
