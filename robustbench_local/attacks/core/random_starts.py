"""Random starting points at a fixed distance from the originals."""

from __future__ import annotations

from torch import Tensor

from robustbench_local.attacks.core.work_items import ActiveSet
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import (
    LpBall,
    broadcast_radius,
    compute_norms,
    project_to_box,
    reshape_for_broadcast,
    sample_random_start,
)


def draw_sphere_starts(front: ActiveSet, stream: RandomStream, draws: list[str], ball: LpBall) -> Tensor:
    """Draw random points at the ball's radius from the original, before clipping to [0, 1].

    Args:
        front: New items.
        stream: Random numbers, one row per item.
        draws: Names of the items' draws.
        ball: Norm and radius.

    Returns:
        (W, C, H, W), in the ball and in [0, 1], changed inside the masks only.
    """
    shape, device = tuple(front.points.shape[1:]), front.points.device
    delta = sample_random_start(stream, shape, ball, draw=draws, device=device, masks=front.masks)
    size = reshape_for_broadcast(compute_norms(delta, ball.norm), delta).clamp_min(1e-30)
    return project_to_box(
        front.originals + delta / size * broadcast_radius(ball, delta), front.originals, ball, front.masks
    )
