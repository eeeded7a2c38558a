"""HopSkipJump: estimate the boundary's normal from labels, step along it, return to the boundary."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, BallAttack, Measure
from robustbench_local.attacks.black_box.base import DecisionOracle, check_queries
from robustbench_local.classifier import Access
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms, compute_steepest_step, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_MIN_PROBES = 10
"""Minimum samples of an estimate."""
_MAX_STEP_HALVINGS = 10
"""Maximum halvings of a step that overshoots."""
_PROBE_RADIUS_SHARE = 0.01
"""Distance of the random points from the current point, as a fraction of its distance from the original. The
paper's 1 / (number of pixel values) is below the rounding error of float32 and of 8-bit services."""
_PROBES_PER_BLOCK = 100
"""Maximum random points per draw of an image; it names the draws, so it determines the random numbers."""
_MAX_HELD_NUMBERS = 1 << 22
"""Maximum random numbers in memory."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(BallAttack):
    """A search for the nearest adversarial example from labels alone.

    The search starts at a random misclassified image, blended with the original up to the decision boundary.
    Each round queries random points around the current one. The difference of the means of misclassified and
    correctly classified points estimates the boundary's normal. The round steps along it and returns to the
    boundary. The search for an image ends when its queries are used up.

    Args:
        queries: Maximum queries per image, at least 100.
        probes: Random points in the first round; round t has sqrt(t) times as many.

    Raises:
        ConfigError: If a number is too small.

    Source: Chen, Jordan & Wainwright 2020, arXiv:1904.02144, algorithm 2.
    """

    access: ClassVar[Access] = "labels"
    measure: ClassVar[Measure] = "distance"

    queries: int = 10_000
    probes: int = 100

    def __post_init__(self) -> None:
        check_queries("HopSkipJump", self.queries)
        if self.probes < _MIN_PROBES:
            raise ConfigError(f"HopSkipJump needs at least {_MIN_PROBES} probes, got {self.probes}")

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Step along the boundary's normal and back to it; see :meth:`BallAttack.find_candidates`."""
        oracle = DecisionOracle(inputs, self.queries)
        return self.search_from(oracle, oracle.find_starting_points(inputs.stream), inputs)

    def search_from(self, oracle: DecisionOracle, rows: Tensor, inputs: AttackInputs) -> Tensor:
        """Search on from the nearest successes that an oracle knows, until its queries are used up.

        Args:
            oracle: The successes, with the remaining queries of each image.
            rows: Indices of the images to search for, (M,).
            inputs: Arguments of the attack.

        Returns:
            Candidates, (N, C, H, W).
        """
        stream, threat = inputs.stream, inputs.threat
        points = oracle.points[rows]
        for round_ in itertools.count(1):
            # queries of the steps after the estimate are reserved, so that no round is cut off
            affordable = oracle.queries_left[rows] - oracle.bisection_steps - _MAX_STEP_HALVINGS
            able = affordable >= _MIN_PROBES
            rows, points = rows[able], points[able]
            if len(rows) == 0:
                break
            probes = affordable[able].clamp(max=int(self.probes * math.sqrt(round_)))
            normals = _estimate_normals(oracle, rows, points, probes, stream.select_images(rows), round_)
            stepped = _step_along_normals(
                oracle, rows, points, compute_steepest_step(normals, threat.norm), round_
            )
            points = oracle.bisect_to_boundary(rows, stepped)
        return oracle.build_candidates()

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return its queries, and no backward pass."""
        return (self.queries if threat.eps else 0), 0


def _estimate_normals(
    oracle: DecisionOracle, rows: Tensor, points: Tensor, probes: Tensor, stream: RandomStream, round_: int
) -> Tensor:
    """Estimate the boundary's normals at points, towards the goal, (M, C, H, W), of any length.

    Args:
        oracle: Decides whether a point reaches the goal.
        rows: Indices of the images, (M,).
        points: Points at the decision boundary, (M, C, H, W).
        probes: Number of random points of each image, (M,).
        stream: The random numbers of these images.
        round_: Name of the draw.
    """
    size = points[0].numel()
    block = max(1, min(_PROBES_PER_BLOCK, _MAX_HELD_NUMBERS // size))
    together = max(1, _MAX_HELD_NUMBERS // (block * size))
    parts = []
    for first in range(0, len(rows), together):
        some = torch.arange(first, min(first + together, len(rows)), device=rows.device)
        arguments = rows[some], points[some], probes[some], stream.select_images(some)
        parts.append(_estimate_normals_in_memory(oracle, *arguments, round_, block))
    return torch.cat(parts)


def _estimate_normals_in_memory(
    oracle: DecisionOracle,
    rows: Tensor,
    points: Tensor,
    probes: Tensor,
    stream: RandomStream,
    round_: int,
    block: int,
) -> Tensor:
    """Run `_estimate_normals` for images that fit into memory, ``block`` probes of each at a time."""
    centers = points[:, None]
    distance = compute_norms(points - oracle.images[rows], "L2")
    radius = _expand_over_pixels(
        (distance * max(_PROBE_RADIUS_SHARE, 1 / points[0].numel())).clamp_min(1e-9)[:, None]
    )
    signed_sum, direction_sum = torch.zeros_like(points), torch.zeros_like(points)
    balance = points.new_zeros(len(rows))
    for first in range(0, int(probes.max()), block):
        is_queried = first + torch.arange(block, device=rows.device) < probes[:, None]
        shape = (block, *points.shape[1:])
        noise = stream.sample_normal(shape, draw=f"round {round_}/{first}", device=points.device)
        noise = noise / _expand_over_pixels(torch.linalg.vector_norm(noise.flatten(2), dim=2))
        around = (centers + radius * noise).clamp(0.0, 1.0)
        moved = (around - centers) / radius * _expand_over_pixels(is_queried)  # after clipping to [0, 1]
        answers = points.new_zeros(is_queried.shape)
        answers[is_queried] = (
            2.0 * oracle.query_success(rows[:, None].expand_as(is_queried)[is_queried], around[is_queried])
            - 1.0
        )
        signed_sum += (_expand_over_pixels(answers) * moved).sum(dim=1)
        direction_sum += moved.sum(dim=1)
        balance += answers.sum(dim=1)
    mean = balance / probes
    # the mean answer is the baseline that reduces the variance; where all answers agree, the estimate would
    # be zero
    return signed_sum - reshape_for_broadcast(torch.where(mean.abs() < 1, mean, 0.0), points) * direction_sum


def _expand_over_pixels(values: Tensor) -> Tensor:
    """Reshape values, (M, B), to broadcast over the pixels of (M, B, C, H, W)."""
    return values[..., None, None, None]


def _step_along_normals(
    oracle: DecisionOracle, rows: Tensor, points: Tensor, directions: Tensor, round_: int
) -> Tensor:
    """Move points along the directions by distance / sqrt(round), halved until they reach the goal."""
    length = oracle.compute_distances(rows, points) / math.sqrt(round_)
    result = points.clone()
    waiting = torch.arange(len(rows), device=rows.device)
    for _ in range(_MAX_STEP_HALVINGS):
        if len(waiting) == 0:
            break
        step = reshape_for_broadcast(length[waiting], points) * directions[waiting]
        tried = (points[waiting] + step).clamp(0.0, 1.0)
        reached = oracle.query_success(rows[waiting], tried)
        result[waiting[reached]] = tried[reached]
        waiting = waiting[~reached]
        length = length / 2
    return result
