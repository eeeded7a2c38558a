"""What Square paints: one colour under Linf, bumps under L2 and L1 that spend what the ball allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.square.windows import Windows
from robustbench_local.threats.lp_ball import Balls, to_ball_and_box
from robustbench_local.threats.threat_model import ThreatModel

_TINY = 1e-30


@dataclass(kw_only=True)
class Canvas:
    """What proposals are painted into, a row each."""

    points: Tensor
    """(M, C, H, W): best points, and the proposals in them afterwards."""
    originals: Tensor
    """(M, C, H, W)."""
    ball: Balls | ThreatModel
    """Around each."""
    at: Tensor
    """The windows, as in `Squares`."""
    colours: Tensor
    """(M, C)."""
    reach: Tensor
    """(M,): as in `Squares`."""
    spent: Tensor
    """(M,): that of the best points, and of the proposals afterwards; stays as it is under Linf."""


def paint_plain(canvas: Canvas, where: Tensor) -> None:
    """Linf: one colour a channel, at the border of the ball; ``where`` as in `paint_bumps`."""
    pixels = canvas.originals.flatten(1).gather(1, where)
    pixels.view(len(pixels), canvas.colours.shape[1], -1).add_(canvas.colours[:, :, None])
    canvas.points.flatten(1).scatter_(1, where, pixels.clamp_(0.0, 1.0))


def paint_bumps(canvas: Canvas, windows: Windows, where: Tensor, *, power: int, wide: bool) -> None:
    """L2 and L1: wipe the second window; its change, and what was not spent, goes into the first.

    Args:
        canvas: What is painted into.
        windows: Two for each row.
        where: Their places, (M, positions).
        power: 2 for L2, 1 for L1.
        wide: Whether more is painted than the ball allows, which then takes it from the whole image.
    """
    colours, half = canvas.colours, where.shape[1] // 2
    channels, points = colours.shape[1], canvas.points.flatten(1)
    pixels = canvas.originals.flatten(1).gather(1, where)
    delta = points.gather(1, where) - pixels
    sums = windows.sums(raised(delta, power))
    here, there = torch.split(where, half, dim=1)
    points.scatter_(1, there, pixels[:, half:])
    pixels, old = pixels[:, :half], delta[:, :half]
    taken = sums[:, channels:] + windows.sums(raised(points.gather(1, here) - pixels, power))
    budget = (taken + (canvas.reach - canvas.spent)[:, None] / channels).clamp_min(0)
    if wide:
        budget *= channels
    pattern = colours[:, :, None] * windows.bumps(canvas.at[:, 2], power)[:, None]
    size = root(sums[:, :channels], power)[:, :, None]
    new = pattern + old.view(len(old), channels, -1) / size
    size = root(windows.sums(raised(new.flatten(1), power)), power)
    new *= (root(budget, power) / size)[:, :, None]
    painted = (pixels + new.flatten(1)).clamp_(0.0, 1.0)
    points.scatter_(1, here, painted)
    if wide:
        canvas.points = to_ball_and_box(canvas.points, canvas.originals, canvas.ball)
        canvas.spent = spent_on(canvas.points - canvas.originals, power)
        return
    change = windows.sums(raised(painted - pixels, power)) - taken
    canvas.spent = canvas.spent + change.sum(dim=1)


def raised(delta: Tensor, power: int) -> Tensor:
    """Absolute values, squared if ``power`` is 2."""
    return delta * delta if power == 2 else delta.abs()


def root(sums: Tensor, power: int) -> Tensor:
    """The norm that belongs to a sum of raised values, never 0."""
    return (sums.sqrt() if power == 2 else sums).clamp_min(_TINY)


def spent_on(delta: Tensor, power: int) -> Tensor:
    """Sum of the raised values of whole images, (N,)."""
    return raised(delta.flatten(1), power).sum(dim=1)
