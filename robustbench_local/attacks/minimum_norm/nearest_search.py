"""The base class of searches for the nearest adversarial example: success check, best points, loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_local.attacks.core import losses
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import compute_success_margin
from robustbench_local.attacks.core.random_starts import draw_sphere_starts
from robustbench_local.attacks.core.search import Search, State
from robustbench_local.attacks.core.trade_off_search import TradeOffWeight
from robustbench_local.attacks.core.work_items import ActiveSet, WorkItems
from robustbench_local.double_precision import to_float64
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import PerImageBalls, compute_norms
from robustbench_local.threats.threat_model import ThreatModel

SUCCESS_MARGIN_SHARE = 3e-7
"""Minimum margin of a success, as a fraction of the largest logit: a few roundings of float32."""
_TARGET_MARGIN_FACTOR = 2.0
"""Ratio of the margin that steps aim at to the minimum margin of a success."""
_SEARCH_RADIUS_SHARE = 0.25
"""Fraction of the distance to the farthest image that a search may go at any radius; half of that distance
would reach uniform gray. A smaller value misses successes from which a boundary leads back to near ones. A
larger value makes steps under Linf so long that they skip near ones."""
_MIN_PATH_STEPS = 20
"""Minimum number of steps of each path where there are several: shorter ones end before the boundary."""
_START_DISTANCE_FACTOR = 3.0
"""Distance of a random start, in distances of the nearest success so far. Paths that start at 1.5 or 2 such
distances end farther from the image on networks with misleading gradients there."""
_LOGIT_RANGE = 16.0
"""Range to which logits are scaled before the odds: that of a trained network on ten classes."""


class MinimumNormSearch(Search[State]):
    """A search that stores the nearest success of each item."""

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score successes by the inverse of their distance, others by their margin, which is at most 0."""
        margins = compute_success_margin(logits, front.labels, self.threat)
        reached = is_clearly_adversarial(margins, logits)
        distance = compute_norms(front.points - front.originals, self.threat.norm)
        return torch.where(reached, 1 / distance, margins.clamp_max(0)), reached & (distance == 0)

    def has_succeeded(self, front: ActiveSet, logits: Tensor) -> Tensor:
        """Return whether each point reaches the goal beyond floating-point noise, (W,)."""
        return is_clearly_adversarial(compute_success_margin(logits, front.labels, self.threat), logits)


def is_clearly_adversarial(
    margins: Tensor, logits: Tensor, margin_share: float = SUCCESS_MARGIN_SHARE
) -> Tensor:
    """Return whether the success exceeds floating-point noise, (N,); also true if a logit is not finite.

    Args:
        margins: Result of ``compute_success_margin``, (N,).
        logits: The classifier's logits, (N, K).
        margin_share: Fraction of the largest logit that the margin has to exceed.
    """
    return (margins > margin_share * logits.abs().amax(dim=1)) | margins.isposinf()


def compute_target_margin(logits: Tensor) -> Tensor:
    """Return the margin to aim at, (N,), with a reserve for the rounding of the step itself.

    Args:
        logits: The classifier's logits nearby, (N, K). The largest gives the resolution of float32, whatever
            part of it all classes have in common.
    """
    return _TARGET_MARGIN_FACTOR * SUCCESS_MARGIN_SHARE * logits.abs().amax(dim=1)


def build_log_odds_loss(threat: ThreatModel, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Build the log odds of success, on logits scaled to a fixed range, so that their scale has no influence.

    Cross-entropy is a monotone function of it. Its gradient points towards all classes within reach, not only
    the nearest as that of the margin.

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
    """Return a number that falls from start to end along half a cosine, at each item's age; (W,).

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    share = (1 + torch.cos(math.pi * to_float64(front.age) / steps)) / 2
    return (end + (start - end) * share).to(front.points)


def compute_search_radius(front: ActiveSet, threat: ThreatModel) -> Tensor:
    """Return the maximum distance of each item's path, (W,): at least the radius that counts, usually more.

    With many classes the gradient of the odds points between several of them. The boundary along it is
    farther than the nearest one, and a search confined to the ball would find no success to refine.

    Args:
        front: The originals and the masks.
        threat: Norm and radius.
    """
    farthest = torch.maximum(front.originals, 1 - front.originals)
    if front.masks is not None:
        farthest = farthest * front.masks
    return (_SEARCH_RADIUS_SHARE * compute_norms(farthest, threat.norm)).clamp_min(threat.eps)


def split_steps(steps: int, max_paths: int, min_steps: int = _MIN_PATH_STEPS) -> tuple[int, ...]:
    """Return the number of steps of each path; few steps give fewer paths.

    Args:
        steps: Steps of all paths together, at least 1.
        max_paths: Maximum number of paths, at least 1.
        min_steps: Minimum number of steps of each path where there are several.
    """
    paths = max(1, min(max_paths, steps // min_steps))
    return tuple((steps + paths - 1 - path) // paths for path in range(paths))


def draw_outer_starts(
    engine: Engine,
    front: ActiveSet,
    threat: ThreatModel,
    max_radius: Tensor,
    stream: RandomStream,
    draw_names: list[str],
) -> Tensor:
    """Draw starting points beyond the nearest success so far, where the gradient differs from the image's.

    At the image, clipped or saturated activations may give no gradient or a misleading one.

    Args:
        engine: The engine with the best points so far.
        front: New items.
        threat: The norm.
        max_radius: The maximum distance of each item's path, (W,), that of an item without a success.
        stream: Random numbers, one row per item.
        draw_names: Names of the items' draws.

    Returns:
        (W, C, H, W) in [0, 1], changed inside the masks only.
    """
    scores = engine.scores[front.rows]
    distance = torch.where(scores > 0, _START_DISTANCE_FACTOR / scores, torch.inf).minimum(max_radius)
    return draw_sphere_starts(front, stream, draw_names, PerImageBalls(threat.norm, distance))


def find_hopeless_items(front: ActiveSet, steps: int, weight: TradeOffWeight) -> Tensor:
    """Return the items whose next search for a weight starts at a random point instead of the image, (W,).

    Args:
        front: The items.
        steps: Steps of the search for each weight.
        weight: The weights. Two that did not suffice, the second ten times the first, and none that did:
            steps from the image lead nowhere, as where it has no gradient.
    """
    several = ((front.age + 1) >= 2 * steps).to(weight.high.device)
    return several & weight.high.isinf()


def select_finite_gradient(gradient: Tensor, front: ActiveSet) -> Tensor:
    """Return the gradient with NaN and pixels outside the masks set to zero."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return gradient if front.masks is None else gradient * front.masks


def drop_saturated_pixels(gradient: Tensor, points: Tensor) -> Tensor:
    """Return the gradient without the pixels that it pushes out of [0, 1], (N, C, H, W)."""
    stuck = (gradient > 0) & (points >= 1) | (gradient < 0) & (points <= 0)
    return gradient.masked_fill(stuck, 0.0)


def build_refinement_items(engine: Engine) -> WorkItems:
    """Build an item for each image with a success at a distance above 0."""
    engine.finished = engine.scores.isposinf()
    items = engine.build_items()
    return items.select_rows((engine.scores[items.rows] > 0).nonzero().flatten())
