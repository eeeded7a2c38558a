"""The 8-bit images inside a ball: what files, cameras and services can hold of an adversarial image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.threats.lp_ball import LINF_SLACK, RELATIVE_SLACK, compute_norms, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_MAX_HALVINGS = 12
"""Steps of the search for the longest change whose nearest levels stay in the ball: to a four-thousandth."""


def round_to_8bit(candidates: Tensor, originals: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """The nearest images on the 8-bit grid that stay in the ball around the originals.

    Linf: levels are clamped to those inside the ball, so eps = .031 means 7 levels, not 8. L2 and L1: rounded
    to the nearest level; where that leaves the ball, the change is shortened just so far that its nearest
    levels stay inside. Under L2 no other image on the grid of that distance is nearer. Without a ball: to the
    nearest level. With a mask, pixels that did not change stay as they were.

    Args:
        candidates: (N, C, H, W) in [0, 1], inside the ball.
        originals: Same shape.
        threat: Norm and radius, or a family of transformations.

    Returns:
        The rounded images, and (N,) boolean: whether the ball has an image on the 8-bit grid. Rounding a
        rounded image changes nothing.
    """
    fixed = (
        candidates == originals if threat.region == "mask" else torch.zeros_like(candidates, dtype=torch.bool)
    )
    target, origin = candidates.double() * 255, originals.double() * 255
    if not threat.is_ball:
        levels, exists = target.round(), torch.ones(len(originals), dtype=torch.bool, device=originals.device)
    elif threat.norm == "Linf":
        low, high = _compute_level_range(origin, threat)
        levels = torch.minimum(torch.maximum(target.round(), low), high)
        exists = ((low <= high) | fixed).flatten(1).all(dim=1)
    else:
        levels = _fit_levels(target, origin, threat, fixed)
        exists = _is_inside(origin.round(), origin, threat, fixed)
    rounded = (levels / 255).to(originals.dtype)
    return torch.where(fixed, originals, rounded), exists


def has_8bit_choice(originals: Tensor, threat: ThreatModel, masks: Tensor | None = None) -> Tensor:
    """Whether the ball around each original holds more than one image on the 8-bit grid.

    With a single one there is nothing to search: mostly it is the original itself.

    Args:
        originals: (N, C, H, W) in [0, 1].
        threat: A ball.
        masks: (N, 1, H, W) boolean; only these pixels may change.

    Returns:
        Boolean, (N,).
    """
    origin = originals.double() * 255
    free = torch.ones_like(originals, dtype=torch.bool) if masks is None else masks.expand_as(originals)
    if threat.norm == "Linf":
        low, high = _compute_level_range(origin, threat)
        return ((low <= high) | ~free).flatten(1).all(dim=1) & ((high > low) & free).flatten(1).any(dim=1)
    gap = torch.where(free, (origin.round() - origin).abs(), 0.0)
    power = 2 if threat.norm == "L2" else 1
    # the pixel whose second nearest level costs least beyond its nearest one
    more = torch.where(free, (1 - gap) ** power - gap**power, torch.inf).flatten(1).amin(dim=1)
    return (gap**power).flatten(1).sum(dim=1) + more <= (255 * _compute_limit(threat)) ** power


def _compute_level_range(origin: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """The lowest and highest levels of each pixel inside an Linf ball and the box."""
    reach = 255 * _compute_limit(threat)
    return (origin - reach).ceil().clamp_min(0), (origin + reach).floor().clamp_max(255)


def _fit_levels(target: Tensor, origin: Tensor, threat: ThreatModel, fixed: Tensor) -> Tensor:
    """The nearest levels of the target, or of a change as long as the ball allows; of the origin, if of none.

    Each pixel's nearest level grows with the length of the change, so that a length that fits can be found by
    halving.
    """
    levels = target.round()
    rows = (~_is_inside(levels, origin, threat, fixed)).nonzero().flatten()
    if len(rows) == 0:
        return levels
    start, change, kept = origin[rows], (target - origin)[rows], fixed[rows]
    best = start.round()
    low, high = change.new_zeros(len(rows)), change.new_ones(len(rows))
    for _ in range(_MAX_HALVINGS):
        middle = (low + high) / 2
        trial = (start + reshape_for_broadcast(middle, change) * change).round()
        fits = _is_inside(trial, start, threat, kept)
        best = torch.where(reshape_for_broadcast(fits, trial), trial, best)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    levels[rows] = best
    return levels


def _is_inside(levels: Tensor, origin: Tensor, threat: ThreatModel, fixed: Tensor) -> Tensor:
    """Whether images on the grid lie in the ball, (N,), fixed pixels aside."""
    return compute_norms(torch.where(fixed, 0.0, levels - origin) / 255, threat.norm) <= _compute_limit(
        threat
    )


def _compute_limit(threat: ThreatModel) -> float:
    """The radius with the slack that the harness grants for rounding."""
    return threat.eps + LINF_SLACK if threat.norm == "Linf" else threat.eps * (1 + RELATIVE_SLACK)
