"""The projection of an image onto a hyperplane inside [0, 1], in three norms, without sorting.

Along the hyperplane's normal, every pixel can move only until it is 0 or 1. One number per row decides how
far the pixels move (a common length under Linf, a common factor under L2, a threshold on the normal's entries
under L1). It solves a piecewise linear equation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.core.top_mass import select_top_mass

_MAX_NEWTON_STEPS = 32
"""Maximum steps of Newton's method; about four solve a row of a thousand entries."""


def compute_hyperplane_step(points: Tensor, normals: Tensor, gaps: Tensor, norm: str) -> Tensor:
    """Compute the smallest change d with gap + <normal, d> = 0 and point + d inside [0, 1].

    Args:
        points: (N, D) in [0, 1].
        normals: (N, D), finite.
        gaps: The linear function's value at each point, (N,), finite.
        norm: Norm to minimize: ``"Linf"``, ``"L2"`` or ``"L1"``.

    Returns:
        (N, D), exact up to rounding. If the hyperplane does not intersect the box: the change to the nearest
        corner.

    Source: Croce & Hein 2020, arXiv:1907.02044, section 2.2 and appendix A, solved there by sorting.
    """
    directions = normals.sign().mul_(-gaps.sign()[:, None])
    room = directions.clamp_min(0).addcmul_(directions, points, value=-1)
    # a pixel that cannot move has no influence, whatever its weight
    weights = normals.abs().mul_(room.sign())
    need = gaps.abs()[:, None]
    if norm == "Linf":
        return directions.mul_(torch.minimum(_solve_water_level(weights, None, room, need), room))
    # scaled to a largest weight of 1, so that the squares of tiny gradients do not vanish
    scale = weights.amax(dim=1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    weights, need = weights.div_(scale), need / scale
    if norm == "L1":
        return directions.mul_(_fill_largest_weights(weights, room, need))
    level = _solve_water_level(weights, weights, room, need)
    return directions.mul_(torch.minimum(weights.mul_(level), room))


def compute_sparse_step(
    points: Tensor, originals: Tensor, normals: Tensor, gaps: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Compute the change d with gap + <normal, d> >= 0 whose result is nearest in L1 to the original.

    Every pixel first returns to its original as far as the bounds allow. The pixels of the largest weights
    then move along the normal until the inequality holds, which is the exact solution: a unit of distance
    is spent where it gains most.

    Args:
        points: Where the linear function is known, (N, D).
        originals: (N, D); the distance to them is minimized.
        normals: (N, D), finite.
        gaps: The linear function's value at the points, (N,), finite.
        low: Smallest value of each pixel of the result, (N, D).
        high: The same for the largest.

    Returns:
        (N, D), exact up to rounding. If no result within the bounds has a value of at least 0: the change to
        the one with the largest value.
    """
    nearest = torch.minimum(torch.maximum(originals, low), high)
    gaps = gaps + ((nearest - points) * normals).sum(dim=1)
    directions = normals.sign()
    room = torch.where(directions > 0, high - nearest, nearest - low) * directions.abs()
    weights = normals.abs() * room.sign()
    scale = weights.amax(dim=1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    need = (-gaps).clamp_min(0)[:, None]
    return nearest + directions * _fill_largest_weights(weights / scale, room, need / scale) - points


def _solve_water_level(weights: Tensor, rates: Tensor | None, room: Tensor, need: Tensor) -> Tensor:
    """Solve sum(weights * min(t * rates, room)) = ``need`` for the level t, (N, 1), if there is one.

    ``rates`` None: all 1.

    The sum is concave in t, so that Newton's method approaches the solution from below and reaches it after
    finitely many steps.
    """
    load = weights * room
    slopes = weights if rates is None else weights * rates
    slope = slopes.sum(dim=1, keepdim=True)
    level, full = torch.zeros_like(need), torch.zeros_like(need)
    # two buffers for everything: allocation in each step would take longer than the arithmetic
    closed, part = torch.empty_like(room), torch.empty_like(room)
    for _ in range(_MAX_NEWTON_STEPS):
        higher = torch.where(slope > 0, (need - full) / slope, level).maximum(level)
        if need.device.type == "cpu" and bool((higher == level).all()):
            break
        level = higher
        torch.sub(level if rates is None else torch.mul(level, rates, out=part), room, out=closed)
        closed.sign_().clamp_min_(0)
        full = torch.mul(load, closed, out=part).sum(dim=1, keepdim=True)
        slope = closed.neg_().add_(1).mul_(slopes).sum(dim=1, keepdim=True)
    return level


def _fill_largest_weights(weights: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Return the move of each pixel, (N, D), if the largest weights move first and as far as possible."""
    cut = select_top_mass(weights, weights * room, need)
    step = cut.mass_low - cut.mass_high
    share = torch.where(step > 0, (need - cut.mass_high) / step, 0.0).clamp(0, 1)
    first = (weights - cut.high).sign_().clamp_min_(0)
    partial = (weights - cut.low).sign_().clamp_min_(0).sub_(first)
    return first.addcmul_(partial, share).mul_(room)
