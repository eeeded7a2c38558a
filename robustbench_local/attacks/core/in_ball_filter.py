"""The success check of searches that leave the ball: only points inside the ball count."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.core.objective import evaluate_goal
from robustbench_local.attacks.core.work_items import ActiveSet
from robustbench_local.threats.lp_ball import LpBall, compute_norms
from robustbench_local.threats.threat_model import ThreatModel

RADIUS_SLACK_SHARES = {"Linf": 1e-6, "L2": 8e-6, "L1": 8e-6}
"""Relative tolerance of the radius for rounding: more than projections need, less than the harness allows."""


def score_points_in_ball(
    front: ActiveSet, logits: Tensor, threat: ThreatModel, ball: LpBall
) -> tuple[Tensor, Tensor]:
    """Return the success margin of points inside the ball, and whether they are confirmed adversarial.

    Args:
        front: The items.
        logits: The classifier's logits at their points, (W, K).
        threat: The goal.
        ball: The ball around each item's original.

    Returns:
        As ``Search.score_points``; points outside score -inf.
    """
    inside = compute_norms(front.points - front.originals, ball.norm) <= ball.eps * (
        1 + RADIUS_SLACK_SHARES[ball.norm]
    )
    margins, reached = evaluate_goal(logits, front.labels, threat)
    return torch.where(inside, margins, -torch.inf), inside & reached
