"""A search: where an item begins, what it climbs, one step for all items at once, and what is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.objective import judged
from robustbench_local.attacks.core.work_items import Foreseen, Front, Rows
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import Balls, choose
from robustbench_local.threats.threat_model import ThreatModel

State = TypeVar("State", bound=Rows)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the classifier answered on the points of a front."""

    logits: Tensor
    """(W, K)."""
    losses: Tensor
    """(W,) values of the search's loss; empty for a search without gradients."""
    gradient: Tensor
    """(W, C, H, W); empty for a search without gradients."""


class Search(ABC, Generic[State]):
    """One way to search: where an item begins, what it climbs, and one step for all items at once.

    The engine owns the loop, the batch and the passes; a search owns its ``state``, a table with a row for
    each item. Items of a front may have different ages.
    """

    steps: int
    """Steps of an item; its last point is looked at too."""
    spare: int = 0
    """Looks that an item may take beyond its steps, for points that were looked at early and in vain."""
    threat: ThreatModel
    """Budget, goal and region."""
    name: str = ""
    """Part of the name of the random draws; tells the stages of one attack apart."""

    @abstractmethod
    def begin(self, front: Front, stream: Stream, draws: list[str]) -> State:
        """Set ``front.points`` to where the items start and make their state.

        Args:
            front: New items, whose points are their originals.
            stream: Random numbers, a row for each item.
            draws: Name of each item's draw: other restarts and targets draw other numbers.
        """

    @abstractmethod
    def step(self, front: Front, state: State, seen: Seen) -> Tensor:
        """The points to look at next, (W, C, H, W).

        Args:
            front: Not to be changed; the points it holds are those that were seen.
            state: The items' state, to be brought up to date.
            seen: The classifier's answer on ``front.points``.
        """

    def loss(self, front: Front) -> Callable[[Tensor], Tensor] | None:  # noqa: ARG002 - for subclasses
        """What is to be climbed, logits (W, K) to (W,); None: only forward passes are needed."""
        return None

    def ahead(self, front: Front, most: int) -> Tensor | None:  # noqa: ARG002 - for subclasses
        """How many points of each item to look at in one pass, (W,) int64 on the CPU; None: one each.

        More than one can only be asked for by a search that knows its next points before it has seen these:
        a random search whose proposals mostly fail.

        Args:
            front: The items.
            most: As many of each fit in.
        """
        return None

    def foresee(self, front: Front, of: Tensor, offsets: Tensor) -> Foreseen:
        """Where items will be if nothing helps until then.

        Args:
            front: The items, not to be changed.
            of: (M,) int64 on the CPU: which item is meant.
            offsets: (M,) int64 on the CPU: how many steps ahead, 0 for the present point.

        Returns:
            Points, and what `leap` needs to go there.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def leap(self, front: Front, there: Foreseen, vain: Tensor) -> None:
        """Bring the items' state up to where they have gone; points and ages already are.

        Args:
            front: The items.
            there: What was foreseen, a row for each item.
            vain: (W,) int64 on the CPU: points of each that were looked at in vain.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def helps(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """Whether points, (W,) scores, change what comes after them, (W,) boolean."""
        return scores > best_scores

    def judge(self, front: Front, logits: Tensor) -> tuple[Tensor, Tensor]:
        """How good each point is, and which items have reached what they were looking for.

        Args:
            front: The items.
            logits: The classifier's answer on their points, (W, K).

        Returns:
            Scores, (W,), of which an item keeps the point with the largest: by default the margin of
            success; and (W,) boolean: by default the goal is reached beyond floating-point noise.
        """
        return judged(logits, front.labels, self.threat)

    def keep(self, front: Front, scores: Tensor) -> None:
        """Bring ``front.best_points`` and ``front.best_scores`` up to date.

        Args:
            front: The items. A search that changes its points in place may change these here too.
            scores: How good each point is, (W,).
        """
        better = scores > front.best_scores
        front.best_scores = torch.where(better, scores, front.best_scores)
        choose(better, front.points, front.best_points, out=front.best_points)

    def ball(self, front: Front) -> Balls | ThreatModel:
        """The ball around each item."""
        return self.threat if front.eps is None else Balls(self.threat.norm, front.eps)
