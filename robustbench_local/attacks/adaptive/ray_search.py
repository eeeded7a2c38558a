"""A search with labels alone under Linf: along rays to corners of the box, whose signs flip by blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, BallAttack, Measure
from robustbench_local.attacks.black_box.base import DecisionOracle, check_queries
from robustbench_local.classifier import Access
from robustbench_local.threats.lp_ball import reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

BISECTION_STEPS = 9
"""Queries that find the boundary along a ray, to a thousandth of the box."""


@dataclass(frozen=True, kw_only=True)
class RaySearch(BallAttack):
    """A search for the direction of signs along which the decision boundary is nearest.

    All pixels move by the same amount, each up or down. A block of signs is flipped, from halves of the image
    to single pixels; the flip stays if the boundary comes nearer, which one query rules out in most cases.
    The search for an image ends with a success inside the ball.

    Args:
        queries: Maximum queries per image, at least 100.

    Source: RayS, Chen & Gu 2020, arXiv:2006.12792, algorithms 1 to 3.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf"})
    access: ClassVar[Access] = "labels"
    measure: ClassVar[Measure] = "distance"

    queries: int = 4000

    def __post_init__(self) -> None:
        check_queries("RaySearch", self.queries)

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Flip blocks of signs; see :meth:`BallAttack.find_candidates`."""
        oracle = DecisionOracle(inputs, self.queries)
        search = _Rays(oracle, inputs.threat)
        size = inputs.images[0].numel()
        blocks = 1
        while True:
            for block in range(blocks):
                if not search.flip_block(block * size // blocks, (block + 1) * size // blocks):
                    return oracle.build_candidates()
            blocks = min(2 * blocks, size)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return its queries, and no backward pass."""
        return (self.queries if threat.eps else 0), 0


class _Rays:
    """The direction of each image and the distance of the boundary along it.

    Args:
        oracle: Decides whether a point reaches the goal.
        threat: The budget.
    """

    def __init__(self, oracle: DecisionOracle, threat: ThreatModel) -> None:
        self._oracle, self._eps = oracle, threat.eps
        self._signs = torch.ones_like(oracle.images)
        self._radii = oracle.images.new_ones(len(oracle.images))

    def flip_block(self, first: int, end: int) -> bool:
        """Flip signs of all images that are searched, and keep what brings the boundary nearer.

        Args:
            first: First position in the flat image.
            end: Last position, exclusive.

        Returns:
            Whether any image is still searched.
        """
        oracle = self._oracle
        is_open = (oracle.queries_left > BISECTION_STEPS + 1) & (oracle.distances > self._eps)
        rows = is_open.nonzero().flatten()
        if len(rows) == 0:
            return False
        signs = self._signs[rows]
        signs.flatten(1)[:, first:end].neg_()
        hit = oracle.query_success(rows, self._move_along(rows, signs, self._radii[rows]))
        rows, signs = rows[hit], signs[hit]
        low, high = torch.zeros_like(self._radii[rows]), self._radii[rows]
        for _ in range(BISECTION_STEPS if len(rows) else 0):
            middle = (low + high) / 2
            reached = oracle.query_success(rows, self._move_along(rows, signs, middle))
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        self._signs[rows], self._radii[rows] = signs, high
        oracle.update_nearest(rows, self._move_along(rows, signs, high))
        return True

    def _move_along(self, rows: Tensor, signs: Tensor, radii: Tensor) -> Tensor:
        images = self._oracle.images[rows]
        return (images + reshape_for_broadcast(radii, images) * signs).clamp(0.0, 1.0)
