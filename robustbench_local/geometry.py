"""Norms, balls and steps. Pure functions on batches of perturbations, in pixel units of [0, 1]."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from robustbench_local.errors import ThreatError
from robustbench_local.randomness import Stream


class Ball(Protocol):
    """What these functions need of a threat model: a norm and a radius."""

    @property
    def norm(self) -> str:
        """``"Linf"`` or ``"L2"``."""

    @property
    def eps(self) -> float:
        """Radius, at least 0."""


def norm_of(delta: Tensor, norm: str) -> Tensor:
    """The size of each perturbation.

    Args:
        delta: (N, ...), one perturbation a row.
        norm: ``"Linf"`` or ``"L2"``.

    Returns:
        (N,), in the dtype of ``delta``.

    Raises:
        ThreatError: If the norm is another one.
    """
    flat = delta.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(dim=1)
    if norm == "L2":
        size: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return size
    raise _unknown(norm)


def project(delta: Tensor, threat: Ball) -> Tensor:
    """The nearest perturbation inside the ball, in the Euclidean sense.

    Args:
        delta: (N, C, H, W).
        threat: Norm and radius; one radius for the whole batch.

    Returns:
        Same shape and dtype; the norm is at most ``threat.eps`` up to rounding (a factor of 1 + 1e-6).

    Raises:
        ThreatError: If the norm has no projection here.
    """
    if threat.norm == "Linf":
        return delta.clamp(-threat.eps, threat.eps)
    if threat.norm == "L2":
        size = _column(norm_of(delta, "L2"), delta)
        # the clamp of the divisor leaves rows inside the ball untouched to the bit: a factor of exactly 1
        factor = torch.where(
            size > threat.eps, threat.eps / size.clamp_min(torch.finfo(delta.dtype).tiny), 1.0
        )
        return delta * factor
    raise _unknown(threat.norm)


def to_ball_and_box(
    candidate: Tensor, originals: Tensor, threat: Ball, masks: Tensor | None = None
) -> Tensor:
    """The candidate brought back into the ball around the *original* images and into [0, 1].

    Args:
        candidate: (N, C, H, W).
        originals: Same shape, inside [0, 1].
        threat: Norm and radius.
        masks: (N, 1, H, W) boolean; outside them the original's bits are returned.

    Returns:
        Same shape: inside [0, 1] exactly, and inside the ball up to 1e-7 (Linf) or a factor of 1 + 1e-5
        (L2). Linf gives the nearest such image. L2 projects to the ball first and to the box second, which
        stays inside the ball because the original is in the box.
    """
    if threat.norm == "Linf":
        inside = torch.clamp(candidate, originals - threat.eps, originals + threat.eps)
    else:
        delta = candidate - originals
        inside = originals + project(delta if masks is None else delta * masks, threat)
        # rounding this sum can leave a small ball; the next float towards the original is inside again
        outside = norm_of(inside - originals, threat.norm) > threat.eps * (1 + 5e-6)
        inside = torch.where(_column(outside, inside), torch.nextafter(inside, originals), inside)
    boxed = inside.clamp(0.0, 1.0)
    return boxed if masks is None else torch.where(masks, boxed, originals)


def random_start(
    stream: Stream,
    shape: tuple[int, ...],
    threat: Ball,
    *,
    draw: str | int,
    device: torch.device | str,
    masks: Tensor | None = None,
) -> Tensor:
    """Perturbations drawn uniformly from the ball, not yet confined to the box.

    Args:
        stream: The images' own random numbers.
        shape: (C, H, W) of one image.
        threat: Norm and radius.
        draw: Name of the draw, such as the restart.
        device: Where the result goes.
        masks: (N, 1, H, W) boolean; the draw is then uniform in the ball over the pixels inside.

    Returns:
        (N, C, H, W), zero outside the masks.

    Raises:
        ThreatError: If the norm is unknown.
    """
    if threat.norm == "Linf":
        delta = stream.uniform(shape, draw=draw, device=device, low=-threat.eps, high=threat.eps)
        return delta if masks is None else delta * masks
    if threat.norm != "L2":
        raise _unknown(threat.norm)
    direction = stream.normal(shape, draw=draw, device=device)
    if masks is not None:
        direction = direction * masks
    ones = torch.ones_like(direction) if masks is None else masks.expand_as(direction)
    dimension = ones.flatten(1).sum(dim=1).clamp_min(1.0)
    # the share of the ball within radius r is r**dimension, so this is the radius of a uniform point
    radius = stream.uniform((), draw=f"{draw}/radius", device=device) ** (1.0 / dimension)
    return steepest(direction, "L2") * _column(radius * threat.eps, direction)


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """The step of unit norm along which a loss rises fastest.

    Args:
        gradient: (N, C, H, W).
        norm: Norm of the step.

    Returns:
        Same shape: the sign for Linf, the normalised gradient for L2. A row whose gradient is zero, or is
        NaN or infinite somewhere, gives a zero step and touches no other row.

    Raises:
        ThreatError: If the norm is unknown.

    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1; Goodfellow et al. 2015, arXiv:1412.6572.
    """
    usable = torch.isfinite(gradient).flatten(1).all(dim=1)
    safe = torch.where(_column(usable, gradient), gradient, 0.0)
    if norm == "Linf":
        return safe.sign()
    if norm != "L2":
        raise _unknown(norm)
    # dividing by the largest entry first keeps the squares of tiny gradients from underflowing to zero
    largest = _column(norm_of(safe, "Linf"), safe)
    scaled = safe / torch.where(largest > 0, largest, 1.0)
    return scaled / _column(norm_of(scaled, "L2"), scaled).clamp_min(1.0)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(N,) values shaped to broadcast over the rows of ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _unknown(norm: str) -> ThreatError:
    return ThreatError(f"no geometry for norm {norm!r}", remedy="use Linf or L2")
