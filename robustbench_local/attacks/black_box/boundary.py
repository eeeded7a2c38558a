"""The Boundary attack: a random walk along the decision boundary, towards the original."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, BallAttack, Measure
from robustbench_local.attacks.black_box.base import DecisionOracle, check_queries
from robustbench_local.classifier import Access
from robustbench_local.errors import ConfigError
from robustbench_local.threats.lp_ball import compute_norms, compute_steepest_step, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_STEPS_PER_BLOCK = 32
"""Steps per draw of random numbers."""
_MAX_HELD_NUMBERS = 1 << 18
"""Maximum random numbers of an image in memory."""
_STEPS_PER_SIDEWAYS_QUERY = 10
"""Interval in steps at which the sideways move alone is queried, to adapt its length."""
_SIDEWAYS_RATE, _FORWARD_RATE = 0.5, 0.25
"""Success rates at which the two step lengths are stable."""
_SIDEWAYS_GAIN, _FORWARD_GAIN = 0.4, 0.1
"""Change of the logarithm of a length per query."""
_MIN_STEP_SHARE, _MAX_STEP_SHARE = 1e-6, 0.5
"""Bounds of the lengths."""


@dataclass(frozen=True, kw_only=True)
class Boundary(BallAttack):
    """A random walk along the decision boundary; the result is the nearest adversarial example on it.

    The walk starts at a random misclassified image, blended with the original up to the decision boundary.
    Each step moves sideways on the sphere around the original and then forward to the original. It is
    accepted if the point is still misclassified. Both step lengths are fractions of the distance and adapt to
    the acceptance rate. The search for an image ends when its queries are used up.

    Args:
        queries: Maximum queries per image, at least 100.
        sideways: Initial length of the move on the sphere, between 0 and 1.
        forward: Initial length of the move to the original, between 0 and 1.

    Raises:
        ConfigError: If a number is out of range.

    Source: Brendel, Rauber & Bethge 2018, arXiv:1712.04248, algorithm 1 and section 2.3.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L2"})
    access: ClassVar[Access] = "labels"
    measure: ClassVar[Measure] = "distance"

    queries: int = 10_000
    sideways: float = 0.01
    forward: float = 0.01

    def __post_init__(self) -> None:
        check_queries("Boundary", self.queries)
        if not (0 < self.sideways < 1 and 0 < self.forward < 1):
            raise ConfigError(
                "Boundary's sideways and forward must be between 0 and 1, "
                f"got {self.sideways} and {self.forward}"
            )

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Run the walk; see :meth:`BallAttack.find_candidates`."""
        images, stream = inputs.images, inputs.stream
        oracle = DecisionOracle(inputs, self.queries)
        walk = _BoundaryWalk(oracle, oracle.find_starting_points(stream), self.sideways, self.forward)
        block = max(1, min(_STEPS_PER_BLOCK, _MAX_HELD_NUMBERS // images[0].numel()))
        for step in itertools.count():
            walk.select_rows(oracle.queries_left[walk.rows] > 1)  # a step may take two queries
            if len(walk.rows) == 0:
                break
            if step % block == 0:
                shape = (block, *images.shape[1:])
                noise = stream.sample_normal(shape, draw=f"steps {step}", device=images.device)
            walk.step(noise[walk.rows, step % block], query_sideways=step % _STEPS_PER_SIDEWAYS_QUERY == 0)
        return oracle.build_candidates()

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return its queries, and no backward pass."""
        return (self.queries if threat.eps else 0), 0


class _BoundaryWalk:
    """The current point and step lengths of each image's walk.

    Args:
        oracle: Decides whether a point reaches the goal.
        rows: Indices of the images, (M,); each walk starts at the nearest known success.
        sideways: Initial length of the move on the sphere.
        forward: Initial length of the move to the original.
    """

    def __init__(self, oracle: DecisionOracle, rows: Tensor, sideways: float, forward: float) -> None:
        self._oracle, self.rows = oracle, rows
        self._points = oracle.points[rows]
        self._sideways = self._points.new_full((len(rows),), sideways)
        self._forward = self._points.new_full((len(rows),), forward)

    def select_rows(self, some: Tensor) -> None:
        """Continue with the selected images, boolean, (M,)."""
        if not bool(some.all()):
            self.rows, self._points = self.rows[some], self._points[some]
            self._sideways, self._forward = self._sideways[some], self._forward[some]

    def step(self, noise: Tensor, *, query_sideways: bool) -> None:
        """Propose a step for each image and accept it if it succeeds.

        Args:
            noise: Standard normal numbers, (M, C, H, W).
            query_sideways: Whether the sideways move is also queried by itself, for one more query.
        """
        originals = self._oracle.images[self.rows]
        beside = self._move_sideways(originals, noise)
        if query_sideways:
            holds = self._oracle.query_success(self.rows, beside)
            self._sideways = _adapt_lengths(self._sideways, holds, _SIDEWAYS_RATE, _SIDEWAYS_GAIN)
        nearer = originals + reshape_for_broadcast(1 - self._forward, beside) * (beside - originals)
        reached = self._oracle.query_success(self.rows, nearer)
        self._forward = _adapt_lengths(self._forward, reached, _FORWARD_RATE, _FORWARD_GAIN)
        self._points[reached] = nearer[reached]
        self._oracle.update_nearest(self.rows[reached], nearer[reached])

    def _move_sideways(self, originals: Tensor, noise: Tensor) -> Tensor:
        """Move points sideways at a constant distance from the originals, inside [0, 1]."""
        away = self._points - originals
        distance = compute_norms(away, "L2")
        outward = compute_steepest_step(away, "L2")
        along = (noise * outward).flatten(1).sum(dim=1)
        tangent = compute_steepest_step(noise - reshape_for_broadcast(along, noise) * outward, "L2")
        turned = compute_steepest_step(outward + reshape_for_broadcast(self._sideways, noise) * tangent, "L2")
        return (originals + reshape_for_broadcast(distance, noise) * turned).clamp(0.0, 1.0)


def _adapt_lengths(length: Tensor, success: Tensor, rate: float, gain: float) -> Tensor:
    """Adapt the lengths to one answer: longer after a success, shorter after a failure."""
    return (length * torch.exp(gain * (success.float() - rate))).clamp(_MIN_STEP_SHARE, _MAX_STEP_SHARE)
