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
    """Steps of an item; its last point is looked at too."""
    lookahead_budget: int = 0
    """Looks that an item may take beyond its steps, for points that were looked at early and in vain."""
    threat: ThreatModel
    """Budget, goal and region."""
    name: str = ""
    """Part of the name of the random draws; tells the stages of one attack apart."""

    @abstractmethod
    def start_items(self, front: ActiveSet, stream: RandomStream, draw_names: list[str]) -> State:
        """Set ``front.points`` to where the items start and make their state.

        Args:
            front: New items, whose points are their originals.
            stream: Random numbers, a row for each item.
            draw_names: Name of each item's draw: other restarts and targets draw other numbers.
        """

    @abstractmethod
    def step(self, front: ActiveSet, state: State, evaluation: PointEvaluation) -> Tensor:
        """The points to look at next, (W, C, H, W).

        Args:
            front: Not to be changed; the points it holds are those that were seen.
            state: The items' state, to be brought up to date.
            evaluation: The classifier's answer on ``front.points``.
        """

    def build_loss(self, front: ActiveSet) -> Callable[[Tensor], Tensor] | None:  # noqa: ARG002 - for subclasses
        """What is to be climbed, logits (W, K) to (W,); None: only forward passes are needed."""
        return None

    def count_lookahead(self, front: ActiveSet, max_points: int) -> Tensor | None:  # noqa: ARG002 - for subclasses
        """How many points of each item to look at in one pass, (W,) int64 on the CPU; None: one each.

        More than one can only be asked for by a search that knows its next points before it has seen these:
        a random search whose proposals mostly fail.

        Args:
            front: The items.
            max_points: As many of each fit in.
        """
        return None

    def build_lookahead(self, front: ActiveSet, items: Tensor, offsets: Tensor) -> Lookahead:
        """Where items will be if nothing helps until then.

        Args:
            front: The items, not to be changed.
            items: (M,) int64 on the CPU: which item is meant.
            offsets: (M,) int64 on the CPU: how many steps ahead, 0 for the present point.

        Returns:
            Points, and what `leap` needs to go there.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def advance_items(self, front: ActiveSet, lookahead: Lookahead, wasted: Tensor) -> None:
        """Bring the items' state up to where they have gone; points and ages already are.

        Args:
            front: The items.
            lookahead: What was foreseen, a row for each item.
            wasted: (W,) int64 on the CPU: points of each that were looked at in vain.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def is_improvement(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """Whether points, (W,) scores, change what comes after them, (W,) boolean."""
        return scores > best_scores

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """How good each point is, and which items have reached what they were looking for.

        Args:
            front: The items.
            logits: The classifier's answer on their points, (W, K).

        Returns:
            Scores, (W,), of which an item keeps the point with the largest: by default the margin of
            success; and (W,) boolean: by default the goal is reached beyond floating-point noise.
        """
        return evaluate_goal(logits, front.labels, self.threat)

    def update_best_points(self, front: ActiveSet, scores: Tensor) -> None:
        """Bring ``front.best_points`` and ``front.best_scores`` up to date.

        Args:
            front: The items. A search that changes its points in place may change these here too.
            scores: How good each point is, (W,).
        """
        better = scores > front.best_scores
        front.best_scores = torch.where(better, scores, front.best_scores)
        merge_rows(better, front.points, front.best_points, out=front.best_points)

    def get_ball(self, front: ActiveSet) -> PerImageBalls | ThreatModel:
        """The ball around each item."""
        return self.threat if front.eps is None else PerImageBalls(self.threat.norm, front.eps)
