"""Random starts at a fixed distance from the originals."""

from __future__ import annotations

from torch import Tensor

from robustbench_local.attacks.core.work_items import Front
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import Ball, column, norm_of, radius, random_start, to_ball_and_box


def border_start(front: Front, stream: Stream, draws: list[str], ball: Ball) -> Tensor:
    """Random points whose distance from the original, box aside, is the ball's radius.

    Args:
        front: New items.
        stream: Random numbers, a row for each item.
        draws: Name of each item's draw.
        ball: Norm and radius.

    Returns:
        (W, C, H, W), in ball and box, changed inside the masks only.
    """
    shape, device = tuple(front.points.shape[1:]), front.points.device
    delta = random_start(stream, shape, ball, draw=draws, device=device, masks=front.masks)
    size = column(norm_of(delta, ball.norm), delta).clamp_min(1e-30)
    return to_ball_and_box(
        front.originals + delta / size * radius(ball, delta), front.originals, ball, front.masks
    )
