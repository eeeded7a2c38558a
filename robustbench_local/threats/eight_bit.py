"""The 8-bit images inside a ball: the adversarial images that files, cameras and services can represent."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.double_precision import lacks_float64
from robustbench_local.threats.lp_ball import (
    compute_norms,
    compute_tolerated_radius,
    reshape_for_broadcast,
)
from robustbench_local.threats.threat_model import ThreatModel

_MAX_HALVINGS = 12
"""Bisection steps for the longest perturbation whose nearest levels stay in the ball: precision 1/4096."""


def round_to_8bit(candidates: Tensor, originals: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """Round to the nearest images on the 8-bit grid that are in the ball around the originals.

    Linf: levels are clamped to those inside the ball, so eps = .031 means 7 levels, not 8. L2 and L1: values
    are rounded to the nearest level; if this leaves the ball, the perturbation is shortened until its nearest
    levels are inside. Under L2 no other image on the grid at that distance is nearer. Without a ball: values
    are rounded to the nearest level. With a mask and under L0, unchanged values are kept, on the grid or not.

    Args:
        candidates: (N, C, H, W) in [0, 1], inside the ball.
        originals: Same shape.
        threat: Norm and radius, or a family of transformations.

    Returns:
        The rounded images, and (N,) boolean: True if the ball has an image on the 8-bit grid. Rounding a
        rounded image changes nothing.
    """
    if lacks_float64(originals.device):
        rounded, exists = round_to_8bit(candidates.cpu(), originals.cpu(), threat)
        return rounded.to(originals.device), exists.to(originals.device)
    keeps_unchanged = threat.region == "mask" or threat.norm == "L0"
    fixed = candidates == originals if keeps_unchanged else torch.zeros_like(candidates, dtype=torch.bool)
    target, origin = candidates.double() * 255, originals.double() * 255
    if not threat.is_ball or threat.norm == "L0":  # rounding changes no further pixel
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
    """Mark the originals whose ball contains more than one image on the 8-bit grid.

    With a single image, mostly the original itself, there is nothing to search.

    Args:
        originals: (N, C, H, W) in [0, 1].
        threat: A ball.
        masks: (N, 1, H, W) boolean; only these pixels may change.

    Returns:
        Boolean, (N,).
    """
    if lacks_float64(originals.device):
        own = None if masks is None else masks.cpu()
        return has_8bit_choice(originals.cpu(), threat, own).to(originals.device)
    origin = originals.double() * 255
    free = torch.ones_like(originals, dtype=torch.bool) if masks is None else masks.expand_as(originals)
    if threat.norm == "Linf":
        low, high = _compute_level_range(origin, threat)
        return ((low <= high) | ~free).flatten(1).all(dim=1) & ((high > low) & free).flatten(1).any(dim=1)
    if threat.norm == "L0":  # any level of any pixel
        return free.flatten(1).any(dim=1) & (threat.eps >= 1)
    gap = torch.where(free, (origin.round() - origin).abs(), 0.0)
    power = 2 if threat.norm == "L2" else 1
    # the smallest extra cost of any pixel's second nearest level over its nearest one
    min_extra = torch.where(free, (1 - gap) ** power - gap**power, torch.inf).flatten(1).amin(dim=1)
    return (gap**power).flatten(1).sum(dim=1) + min_extra <= (255 * _compute_limit(threat)) ** power


def _compute_level_range(origin: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest levels of each pixel inside an Linf ball and the box."""
    reach = 255 * _compute_limit(threat)
    return (origin - reach).ceil().clamp_min(0), (origin + reach).floor().clamp_max(255)


def _fit_levels(target: Tensor, origin: Tensor, threat: ThreatModel, fixed: Tensor) -> Tensor:
    """Return the nearest levels of the target, shortened to the ball; those of the origin if nothing fits.

    Each pixel's nearest level is monotonic in the length of the perturbation, so bisection finds a fitting
    length.
    """
    levels = target.round()
    rows = (~_is_inside(levels, origin, threat, fixed)).nonzero().flatten()
    if len(rows) == 0:
        return levels
    start, change, fixed_rows = origin[rows], (target - origin)[rows], fixed[rows]
    best = start.round()
    low, high = change.new_zeros(len(rows)), change.new_ones(len(rows))
    for _ in range(_MAX_HALVINGS):
        middle = (low + high) / 2
        trial = (start + reshape_for_broadcast(middle, change) * change).round()
        fits = _is_inside(trial, start, threat, fixed_rows)
        best = torch.where(reshape_for_broadcast(fits, trial), trial, best)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    levels[rows] = best
    return levels


def _is_inside(levels: Tensor, origin: Tensor, threat: ThreatModel, fixed: Tensor) -> Tensor:
    """Mark the images on the grid that are in the ball, (N,), ignoring fixed pixels."""
    change = torch.where(fixed, 0.0, levels - origin) / 255
    return compute_norms(change, threat.norm) <= _compute_limit(threat)


def _compute_limit(threat: ThreatModel) -> float:
    return compute_tolerated_radius(threat.norm, threat.eps)
