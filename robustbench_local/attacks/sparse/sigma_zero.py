"""Sigma-zero: the adversarial example with the fewest changed pixels, by gradients of a smooth count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import Measure
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import build_objective, check_counts
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.attacks.minimum_norm.base import MinimumNormAttack
from robustbench_local.attacks.minimum_norm.nearest_search import (
    MinimumNormSearch,
    anneal_cosine,
    select_finite_gradient,
)
from robustbench_local.attacks.sparse.pixel_pruning import prune_successes
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_SMOOTHING_AND_THRESHOLD = ((1e-3, 0.3), (1e-2, 0.15))
"""The sigma of the smooth count and the first threshold of each path. Those of the first are published. The
better of two paths that differ has fewer pixels than one path of twice the steps."""
_THRESHOLD_RATE = 0.01
"""Change of the threshold in a step, as a share of the step's length."""
_LAST_STEP_SHARE = 0.01
_STEPS_PER_PRUNING_STEP, _MIN_PRUNING_STEPS = 8, 12
"""Steps of a path for each step of its pruning, and the fewest of these. Few images need more: after 200
steps, 64 instead of 25 remove 0.1% more pixels on MNIST."""
_FIRST_MOMENT_DECAY, _SECOND_MOMENT_DECAY = 0.9, 0.999


@dataclass(frozen=True, kw_only=True)
class SigmaZero(MinimumNormAttack):
    """Sigma-zero: descends the margin, and where it is negative a smooth count of the changed pixels.

    A pixel counts once, whatever number of its channels changes; the paper counts channels, which is the same
    on gray images. Pixels whose change is shorter than a threshold are reset in each step; the threshold
    rises on adversarial points and falls on others. Gradients are scaled to a largest entry of 1 and averaged
    as in Adam. The result of each path loses the pixels that it does not need.

    Args:
        steps: Steps of a path, at least 1.
        paths: Paths with different smoothing, 1 or 2; the first is the published one.
        step_size: Length of the first step, above 0; falls to a hundredth of it.

    Raises:
        ConfigError: If a number is out of range.

    Source: Cina et al. 2024, arXiv:2402.01879, algorithm 1; Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L0"})

    steps: int = 200
    paths: int = 2
    step_size: float = 1.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_counts(name, steps=self.steps, paths=self.paths)
        if self.paths > len(_SMOOTHING_AND_THRESHOLD) or not self.step_size > 0:
            raise ConfigError(
                f"{name} needs 1 or 2 paths and a step_size above 0, got {self.paths} and {self.step_size}"
            )

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run the paths one after another, and prune the result of each."""
        enough = self._count_sufficient_pixels(threat)
        for path in range(self.paths):
            points, scores = engine.points.clone(), engine.scores.clone()
            engine.scores = torch.where(engine.finished, scores, -torch.inf)
            engine.run(_SigmaZeroSearch(self, threat, path, enough), engine.build_items(path))
            prune_successes(engine, threat, self._count_pruning_steps())
            better = engine.scores > scores
            engine.points = torch.where(reshape_for_broadcast(better, points), engine.points, points)
            engine.scores = torch.where(better, engine.scores, scores)
            engine.finished = engine.scores >= (1 / engine.scores.new_tensor(float(enough)))

    def refine_results(self, engine: Engine, threat: ThreatModel) -> None:
        """Nothing is left to do: the paths were pruned."""

    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return the passes of all paths with their pruning."""
        steps = self.paths * (self.steps + self._count_pruning_steps())
        return steps + 2 * self.paths, steps

    def estimate_refinement(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return no passes."""
        return 0, 0

    def _count_pruning_steps(self) -> int:
        return max(_MIN_PRUNING_STEPS, math.ceil(self.steps / _STEPS_PER_PRUNING_STEP))

    def _count_sufficient_pixels(self, threat: ThreatModel) -> int:
        """Return the number of pixels at which the search for an image ends."""
        return int(threat.eps) if self.measure == "ball" else 0


@dataclass(frozen=True, kw_only=True)
class SigmaZeroBall(SigmaZero):
    """Sigma-zero for a fixed number of pixels: an image leaves at its first success within them.

    Arguments and errors as for :class:`SigmaZero`.

    Source: Cina et al. 2024, arXiv:2402.01879, algorithm 1.
    """

    measure: ClassVar[Measure] = "ball"


@dataclass(kw_only=True)
class _SigmaZeroState(TensorTable):
    """The threshold of each item, and the moments of its gradients."""

    threshold: Tensor
    """(W,): the shortest change that a pixel keeps."""
    first_moment: Tensor
    """(W, C, H, W)."""
    second_moment: Tensor
    """(W, C, H, W)."""


class _SigmaZeroSearch(MinimumNormSearch[_SigmaZeroState]):
    """A path from the image.

    Args:
        attack: Steps and step size.
        threat: L0 and the goal.
        path: Index of the path, which decides the smoothing.
        sufficient_pixels: Number of pixels at which a success ends the search.
    """

    name = "sigma-zero"

    def __init__(self, attack: SigmaZero, threat: ThreatModel, path: int, sufficient_pixels: int) -> None:
        self.attack, self.threat, self.steps = attack, threat, attack.steps
        self._sigma, self._first_threshold = _SMOOTHING_AND_THRESHOLD[path]
        self._sufficient_pixels = sufficient_pixels

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _SigmaZeroState:  # noqa: ARG002
        """Start at the image."""
        nothing = torch.zeros_like(front.points)
        threshold = front.points.new_full((len(front),), self._first_threshold)
        return _SigmaZeroState(threshold=threshold, first_moment=nothing, second_moment=nothing)

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor]:
        """Return the margin."""
        return build_objective("margin", self.threat, front.labels)

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score as the base class; a success with few enough pixels ends the search."""
        scores, done = super().score_points(front, logits)
        size = compute_norms(front.points - front.originals, self.threat.norm)
        return scores, done | (scores > 0) & (size <= self._sufficient_pixels)

    def step(self, front: ActiveSet, state: _SigmaZeroState, evaluation: PointEvaluation) -> Tensor:
        """Step down the gradient, and reset the pixels below the threshold."""
        success = self.has_succeeded(front, evaluation.logits)
        direction = self._average_gradients(front, state, self._compute_gradient(front, evaluation, success))
        length = anneal_cosine(
            front, self.steps, self.attack.step_size, _LAST_STEP_SHARE * self.attack.step_size
        )
        moved = (front.points - reshape_for_broadcast(length, direction) * direction).clamp(0, 1)
        change = _compute_lengths(moved - front.originals)
        is_kept = (change >= reshape_for_broadcast(state.threshold, change)) & (change > 0)
        rate = _THRESHOLD_RATE * torch.where(success, length, -length)
        state.threshold = (state.threshold + rate).clamp(0, 1)
        return torch.where(is_kept, moved, front.originals)

    def _compute_gradient(self, front: ActiveSet, evaluation: PointEvaluation, success: Tensor) -> Tensor:
        """Return the gradient to descend, (W, C, H, W), with a largest entry of 1."""
        delta = front.points - front.originals
        smoothed = _compute_lengths(delta).square() + self._sigma
        count_gradient = 2 * self._sigma * delta / smoothed.square() / delta[0, 0].numel()
        margin_gradient = select_finite_gradient(evaluation.gradient, front)
        margin_gradient = margin_gradient.masked_fill(reshape_for_broadcast(success, delta), 0.0)
        gradient = count_gradient - margin_gradient
        largest = reshape_for_broadcast(compute_norms(gradient, "Linf"), gradient)
        return gradient / torch.where(largest > 0, largest, 1.0)

    def _average_gradients(self, front: ActiveSet, state: _SigmaZeroState, gradient: Tensor) -> Tensor:
        """Update the moments, and return the direction of Adam, (W, C, H, W)."""
        state.first_moment = torch.lerp(gradient, state.first_moment, _FIRST_MOMENT_DECAY)
        state.second_moment = torch.lerp(gradient.square(), state.second_moment, _SECOND_MOMENT_DECAY)
        count = reshape_for_broadcast((front.age + 1).to(gradient), gradient)
        first = state.first_moment / (1 - _FIRST_MOMENT_DECAY**count)
        second = state.second_moment / (1 - _SECOND_MOMENT_DECAY**count)
        return first / (second.sqrt() + 1e-8)


def _compute_lengths(delta: Tensor) -> Tensor:
    """Return the Euclidean length of each pixel's change, (W, 1, H, W)."""
    return delta.square().sum(dim=1, keepdim=True).sqrt()
