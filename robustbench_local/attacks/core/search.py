"""The interface of a search: its starting points, its loss, one step for all items, and the best points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.objective import evaluate_goal
from robustbench_local.attacks.core.work_items import ActiveSet, Lookahead, TensorTable
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import PerImageBalls, merge_rows
from robustbench_local.threats.threat_model import ThreatModel

State = TypeVar("State", bound=TensorTable)


@dataclass(frozen=True, kw_only=True)
class PointEvaluation:
    """The classifier's output at the points of an active set."""

    logits: Tensor
    """(W, K)."""
    losses: Tensor
    """(W,) values of the search's loss; empty for a search without gradients."""
    gradient: Tensor
    """(W, C, H, W); empty for a search without gradients."""


class Search(ABC, Generic[State]):
    """A search: the starting point of an item, its loss, and one step for all items at once.

    The engine owns the loop, the batch and the passes. A search owns its state, a table with one row per
    item. Items of an active set may differ in age.
    """

    steps: int
    """Steps of an item; its last point is evaluated too."""
    lookahead_budget: int = 0
    """Maximum evaluations of an item beyond its steps, for discarded evaluations ahead."""
    threat: ThreatModel
    """Budget, goal and region."""
    name: str = ""
    """Part of the names of the random draws; distinguishes the stages of one attack."""

    @abstractmethod
    def start_items(self, front: ActiveSet, stream: RandomStream, draw_names: list[str]) -> State:
        """Set ``front.points`` to the starting points of the items and return their state.

        Args:
            front: New items, whose points are their originals.
            stream: Random numbers, one row per item.
            draw_names: Names of the items' draws; different restarts and targets draw different numbers.
        """

    @abstractmethod
    def step(self, front: ActiveSet, state: State, evaluation: PointEvaluation) -> Tensor:
        """Return the next points to evaluate, (W, C, H, W).

        Args:
            front: The items, not to be changed, with the evaluated points.
            state: The items' state, updated in place.
            evaluation: The classifier's output at ``front.points``.
        """

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor] | None:  # noqa: ARG002 - for subclasses
        """Return the loss to maximize, logits (W, K) to (W,), or None if forward passes are enough."""
        return None

    def count_lookahead(self, front: ActiveSet, max_points: int) -> Tensor | None:  # noqa: ARG002 - for subclasses
        """Return the points of each item to evaluate in one pass, (W,) int64 on the CPU; None: one each.

        Only a search that knows its next points before the current ones are evaluated can return more than
        one: a random search whose proposals are mostly rejected.

        Args:
            front: The items.
            max_points: Maximum points per item that fit into the batch.
        """
        return None

    def build_lookahead(self, front: ActiveSet, items: Tensor, offsets: Tensor) -> Lookahead:
        """Return the states of items several steps ahead if no point is an improvement until then.

        Args:
            front: The items, not to be changed.
            items: (M,) int64 on the CPU: index of the item.
            offsets: (M,) int64 on the CPU: number of steps ahead, 0 for the current point.

        Returns:
            Points, and the data that `advance_items` needs to move there.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def advance_items(self, front: ActiveSet, lookahead: Lookahead, wasted: Tensor) -> None:
        """Update the items' state after a jump ahead; points and ages are already updated.

        Args:
            front: The items.
            lookahead: The predicted states, one row per item.
            wasted: (W,) int64 on the CPU: discarded evaluations of each item.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def is_improvement(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """Return whether points with scores (W,) change the points after them, (W,) boolean."""
        return scores > best_scores

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score of each point, and which items have reached their goal.

        Args:
            front: The items.
            logits: The classifier's logits at their points, (W, K).

        Returns:
            Scores, (W,): an item keeps the point with the largest score, by default the margin of success.
            And (W,) boolean: by default the goal is reached beyond floating-point noise.
        """
        return evaluate_goal(logits, front.labels, self.threat)

    def update_best_points(self, front: ActiveSet, scores: Tensor) -> None:
        """Update ``front.best_points`` and ``front.best_scores``.

        Args:
            front: The items. A search that changes its points in place may also change them in this method.
            scores: Score of each point, (W,).
        """
        better = scores > front.best_scores
        front.best_scores = torch.where(better, scores, front.best_scores)
        merge_rows(better, front.points, front.best_points, out=front.best_points)

    def get_ball(self, front: ActiveSet) -> PerImageBalls | ThreatModel:
        """Return the ball around each item."""
        return self.threat if front.eps is None else PerImageBalls(self.threat.norm, front.eps)
