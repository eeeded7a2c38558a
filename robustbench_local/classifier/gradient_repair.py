"""Finite gradients: NaN and infinities are removed where they arise in the backward pass.

A branch such as ``sqrt`` at 0 makes a gradient NaN although it contributes nothing to it. Zeroing such
entries at the pixels discards the gradients of all other branches; zeroing them behind the operation that
made them does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustbench_local.classifier.autograd_graph import walk_graph
from robustbench_local.double_precision import to_float64

DIFFERENCE_STEPS = (1e-2, 1e-3)
"""Largest pixel changes in the finite differences that a repaired gradient is compared with: the first for
gradients that hardly change the loss, the second for losses that curve within a few gray levels."""
MAX_SLOPE_RATIO = 3.0
"""Maximum ratio between the predicted and the measured change of the loss: losses curve, and those of some
attacks hold a scale fixed."""
ROUNDING_SHARE = 6e-6
"""A change of the loss up to this share of its size, or of 1, may be float32 rounding and is ignored."""


@dataclass(frozen=True)
class GradientFaults:
    """The faults found in the gradients of one check, one row per image."""

    nonfinite_entries: Tensor
    """(N,) int64: entries that were NaN or infinite, before any repair."""
    is_zero: Tensor
    """(N,) boolean: the gradient was exactly zero, after the repair if there was one."""
    unconfirmed: Tensor
    """(N,) boolean: a repaired gradient, not zero, that a finite difference does not confirm."""

    @property
    def nonfinite(self) -> Tensor:
        """(N,) boolean: some entry was NaN or infinite."""
        return self.nonfinite_entries > 0


def is_finite_and_nonzero(gradient: Tensor) -> bool:
    """Check whether every row is finite and not zero; waits for the device.

    Args:
        gradient: (N, ...).

    Returns:
        True only if so. A row whose sum cancels to 0 also gives False and needs a closer look.
    """
    sums = gradient.flatten(1).sum(dim=1)  # the cheapest reduction; whatever is not finite stays so
    return bool(((sums != 0) & (sums - sums == 0)).all())


def find_faults(gradient: Tensor) -> GradientFaults:
    """Find faults in a gradient, (N, ...), that was not repaired; does not wait for the device."""
    flat = gradient.flatten(1)
    entries = flat.isfinite().logical_not_().sum(dim=1)
    zero = (flat != 0).any(dim=1).logical_not_()
    return GradientFaults(nonfinite_entries=entries, is_zero=zero, unconfirmed=torch.zeros_like(zero))


def remove_nonfinite(gradient: Tensor) -> Tensor:
    """Replace NaN and infinity by 0; all other entries stay equal to the bit."""
    return torch.where(gradient.isfinite(), gradient, 0.0)


def keep_backward_finite(output: Tensor) -> None:
    """Make every operation behind a tensor return 0 for NaN and infinity in its backward pass.

    Args:
        output: The tensor that a backward pass starts from. Its whole graph is walked.
    """
    for node in walk_graph(output):
        if node.next_functions:  # the ends of the graph only gather what others hand them
            node.register_hook(_clean_backward_hook)


def _clean_backward_hook(slopes: tuple[Tensor | None, ...], _given: Any) -> tuple[Tensor | None, ...]:
    """Zero non-finite values, as a hook behind one operation of the backward pass."""
    return tuple(None if slope is None else remove_nonfinite(slope) for slope in slopes)


def confirm_gradient(
    losses_at: Callable[[Tensor], Tensor], images: Tensor, losses: Tensor, gradient: Tensor
) -> Tensor:
    """Check whether losses rise along gradients at the predicted rate.

    Args:
        losses_at: Images to losses, (N,) or (N, T), without gradients.
        images: (N, C, H, W) in [0, 1].
        losses: At the images.
        gradient: (N, C, H, W) or (N, T, C, H, W).

    Returns:
        (N,) boolean: the central difference along the gradient, inside the box, agrees up to the factor
        `MAX_SLOPE_RATIO` at one of the `DIFFERENCE_STEPS`, and the predicted change there exceeds rounding.
    """
    several = losses.ndim == 2
    slope = to_float64(gradient.sum(dim=1) if several else gradient)
    sizes = losses.abs().sum(dim=1) if several else losses.abs()
    noise = ROUNDING_SHARE * to_float64(sizes).clamp_min(1.0)
    peak = slope.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    direction = (slope / peak.view(-1, 1, 1, 1)).to(images)
    confirmed = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for step in DIFFERENCE_STEPS:
        ends = [(images + sign * step * direction).clamp(0, 1) for sign in (1, -1)]
        high, low = (to_float64(losses_at(end)) for end in ends)
        measured = (high - low).sum(dim=1) if several else high - low
        foretold = (slope * to_float64(ends[0] - ends[1])).flatten(1).sum(dim=1)
        near = (measured > foretold / MAX_SLOPE_RATIO) & (measured < foretold * MAX_SLOPE_RATIO)
        confirmed |= (near & (foretold > noise)).to(images.device)
    return confirmed


def compute_ascent_gradient(
    loss_at: Callable[[Tensor], Tensor], images: Tensor, *, check: bool = True
) -> tuple[Tensor, bool]:
    """Compute the finite gradient of a scalar loss with respect to images, for adversarial training.

    Args:
        loss_at: Images to a scalar; called a second time where the gradient has to be repaired.
        images: (N, C, H, W).
        check: Whether to check and repair entries that are not finite, which waits for the device;
            otherwise such entries are only zeroed.

    Returns:
        Gradient, finite, as ``images``; and whether it had to be repaired.
    """
    leaf = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_at(leaf), leaf)
    if not check:
        return remove_nonfinite(gradient), False
    finite = gradient.isfinite().flatten(1).all(dim=1)
    if bool(finite.all()):
        return gradient, False
    again = images.detach().requires_grad_()
    loss = loss_at(again)
    keep_backward_finite(loss)
    (repaired,) = torch.autograd.grad(loss, again)
    is_finite = finite.view(-1, *[1] * (gradient.ndim - 1))
    return torch.where(is_finite, gradient, remove_nonfinite(repaired)), True
