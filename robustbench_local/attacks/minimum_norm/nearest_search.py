"""The base class of searches for the nearest adversarial example: success check, best points, loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_local.attacks.core import losses
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import compute_success_margin
from robustbench_local.attacks.core.search import Search, State
from robustbench_local.attacks.core.work_items import ActiveSet, WorkItems
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

SUCCESS_MARGIN_SHARE = 3e-7
"""A success counts once its margin exceeds this share of the largest logit: a few roundings of a float32."""
_TARGET_MARGIN_FACTOR = 2.0
"""A point is aimed so many times as far beyond the border as counts as a success."""
_SEARCH_RADIUS_SHARE = 0.25
"""Share of the way to the farthest image that a search may go whatever the radius; half of that way would
lead to plain grey. With less, successes are missed from which a border leads back to near ones; with more,
steps under Linf are so long that near ones are stepped over."""
_LOGIT_RANGE = 16.0
"""The range that logits are brought to before odds are taken: that of a trained network on ten classes."""


class MinimumNormSearch(Search[State]):
    """A search that stores the nearest success of each item."""

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Successes score the inverse of their distance, others their margin, which is not above 0."""
        margins = compute_success_margin(logits, front.labels, self.threat)
        reached = is_clearly_adversarial(margins, logits)
        distance = compute_norms(front.points - front.originals, self.threat.norm)
        return torch.where(reached, 1 / distance, margins.clamp_max(0)), reached & (distance == 0)

    def has_succeeded(self, front: ActiveSet, logits: Tensor) -> Tensor:
        """Whether each point reaches the goal beyond doubt, (W,)."""
        return is_clearly_adversarial(compute_success_margin(logits, front.labels, self.threat), logits)


def is_clearly_adversarial(
    margins: Tensor, logits: Tensor, margin_share: float = SUCCESS_MARGIN_SHARE
) -> Tensor:
    """Whether the goal is reached by more than floating-point noise, (N,); also where a logit is not finite.

    Args:
        margins: What ``compute_success_margin`` gave, (N,).
        logits: The classifier's answer, (N, K).
        margin_share: Share of the largest logit that the margin has to exceed.
    """
    return (margins > margin_share * logits.abs().amax(dim=1)) | margins.isposinf()


def compute_target_margin(logits: Tensor) -> Tensor:
    """The margin to aim at, (N,): with room for the rounding of the aim itself.

    Args:
        logits: The classifier's answer nearby, (N, K). The largest says how coarse a float32 of its size is,
            whatever of it all classes have in common.
    """
    return _TARGET_MARGIN_FACTOR * SUCCESS_MARGIN_SHARE * logits.abs().amax(dim=1)


def build_log_odds_loss(threat: ThreatModel, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The log of the odds of success, from logits brought to one range, so that their scale plays no part.

    Cross-entropy is a monotone function of it; its gradient points to all classes that are within reach, not
    to the nearest alone as the margin's does.

    Args:
        threat: Its goal.
        labels: True classes, (N,).

    Returns:
        A function of the logits, (N, K) to (N,).
    """
    targets = labels.new_tensor(threat.targets)

    def odds(logits: Tensor) -> Tensor:
        spread = (logits.amax(dim=1) - logits.amin(dim=1)).detach()
        scale = torch.where(spread > 0, _LOGIT_RANGE / spread, 1.0)
        return losses.compute_log_odds(logits * scale[:, None], labels, targets)

    return odds


def anneal_cosine(front: ActiveSet, steps: int, start: float, end: float) -> Tensor:
    """A number that falls from start to end along half a cosine, at each item's age; (W,).

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    share = (1 + torch.cos(math.pi * front.age.double() / steps)) / 2
    return (end + (start - end) * share).to(front.points)


def compute_search_radius(front: ActiveSet, threat: ThreatModel) -> Tensor:
    """How far each item may go on its way, (W,): at least as far as counts in the end, mostly farther.

    Among many classes the gradient of the odds points between several: along it the border is farther away
    than the nearest one is, and a search that is confined to the ball would find nothing there to refine.

    Args:
        front: The originals and the masks.
        threat: Norm and radius.
    """
    farthest = torch.maximum(front.originals, 1 - front.originals)
    if front.masks is not None:
        farthest = farthest * front.masks
    return (_SEARCH_RADIUS_SHARE * compute_norms(farthest, threat.norm)).clamp_min(threat.eps)


def select_finite_gradient(gradient: Tensor, front: ActiveSet) -> Tensor:
    """The gradient without what is not a number or outside the masks."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return gradient if front.masks is None else gradient * front.masks


def drop_saturated_pixels(gradient: Tensor, points: Tensor) -> Tensor:
    """The gradient without the pixels that it pushes out of the box, (N, C, H, W)."""
    stuck = (gradient > 0) & (points >= 1) | (gradient < 0) & (points <= 0)
    return gradient.masked_fill(stuck, 0.0)


def build_refinement_items(engine: Engine) -> WorkItems:
    """An item for each image that has a success, but not at distance 0; all others are left in peace."""
    engine.finished = engine.scores.isposinf()
    items = engine.build_items()
    return items.select_rows((engine.scores[items.rows] > 0).nonzero().flatten())
