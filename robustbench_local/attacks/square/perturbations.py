"""The perturbations of Square: one color under Linf, bumps that use the whole budget under L2 and L1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.square.windows import Windows
from robustbench_local.threats.lp_ball import PerImageBalls, project_to_box
from robustbench_local.threats.threat_model import ThreatModel

_MIN_NORM = 1e-30


@dataclass(kw_only=True)
class SquareProposals:
    """The points that proposals modify, one row each."""

    points: Tensor
    """(M, C, H, W): best points; afterwards with the proposals."""
    originals: Tensor
    """(M, C, H, W)."""
    ball: PerImageBalls | ThreatModel
    """Around each."""
    windows: Tensor
    """The windows, as in `SquareState`."""
    colours: Tensor
    """(M, C)."""
    budget: Tensor
    """(M,): as in `SquareState`."""
    used_budget: Tensor
    """(M,): budget used by the best points, and afterwards by the proposals; unchanged under Linf."""


def perturb_linf_windows(proposals: SquareProposals, where: Tensor) -> None:
    """Linf: set one color per channel, at the limit of the ball; ``where`` as in `perturb_lp_windows`."""
    pixels = proposals.originals.flatten(1).gather(1, where)
    pixels.view(len(pixels), proposals.colours.shape[1], -1).add_(proposals.colours[:, :, None])
    proposals.points.flatten(1).scatter_(1, where, pixels.clamp_(0.0, 1.0))


def perturb_lp_windows(
    canvas: SquareProposals,
    windows: Windows,
    pixel_positions: Tensor,
    *,
    power: int,
    project_whole_image: bool,
) -> None:
    """L2 and L1: clear the second window; move its change and the unused budget into the first.

    Args:
        canvas: The points to modify.
        windows: The windows, two per row.
        pixel_positions: Positions of their pixels, (M, positions).
        power: 2 for L2, 1 for L1.
        project_whole_image: Whether the excess over the ball is removed from the whole image.
    """
    colours, half = canvas.colours, pixel_positions.shape[1] // 2
    channels, points = colours.shape[1], canvas.points.flatten(1)
    pixels = canvas.originals.flatten(1).gather(1, pixel_positions)
    delta = points.gather(1, pixel_positions) - pixels
    sums = windows.sum_channels(raise_to_power(delta, power))
    first_positions, second_positions = torch.split(pixel_positions, half, dim=1)
    points.scatter_(1, second_positions, pixels[:, half:])
    pixels, old = pixels[:, :half], delta[:, :half]
    freed_budget = sums[:, channels:] + windows.sum_channels(
        raise_to_power(points.gather(1, first_positions) - pixels, power)
    )
    budget = (freed_budget + (canvas.budget - canvas.used_budget)[:, None] / channels).clamp_min(0)
    if project_whole_image:
        budget *= channels
    pattern = colours[:, :, None] * windows.select_patterns(canvas.windows[:, 2], power)[:, None]
    size = compute_root(sums[:, :channels], power)[:, :, None]
    new = pattern + old.view(len(old), channels, -1) / size
    size = compute_root(windows.sum_channels(raise_to_power(new.flatten(1), power)), power)
    new *= (compute_root(budget, power) / size)[:, :, None]
    painted = (pixels + new.flatten(1)).clamp_(0.0, 1.0)
    points.scatter_(1, first_positions, painted)
    if project_whole_image:
        canvas.points = project_to_box(canvas.points, canvas.originals, canvas.ball)
        canvas.used_budget = compute_used_budget(canvas.points - canvas.originals, power)
        return
    change = windows.sum_channels(raise_to_power(painted - pixels, power)) - freed_budget
    canvas.used_budget = canvas.used_budget + change.sum(dim=1)


def raise_to_power(delta: Tensor, power: int) -> Tensor:
    """Return absolute values, squared if ``power`` is 2."""
    return delta * delta if power == 2 else delta.abs()


def compute_root(sums: Tensor, power: int) -> Tensor:
    """Return the norm of a sum of raised values, never 0."""
    return (sums.sqrt() if power == 2 else sums).clamp_min(_MIN_NORM)


def compute_used_budget(delta: Tensor, power: int) -> Tensor:
    """Return the sum of the raised values of whole images, (N,)."""
    return raise_to_power(delta.flatten(1), power).sum(dim=1)
