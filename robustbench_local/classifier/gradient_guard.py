"""What leaves `Classifier.gradient` is finite: who looks, when, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from robustbench_local.classifier.gradient_repair import (
    GradientFaults,
    find_faults,
    is_healthy,
    keep_backward_finite,
    remove_nonfinite,
)
from robustbench_local.classifier.pass_counter import Meter

Loss = Callable[[Tensor], Tensor]


class GradientSource(Protocol):
    """What the guard needs of a `Classifier`, which lies above it; see there."""

    @property
    def open_meter(self) -> Meter | None:
        """See `Classifier.open_meter`."""

    def metered(self, count: int, limit: int | None = None) -> AbstractContextManager[Meter]:
        """See `Classifier.metered`."""

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `Classifier.__call__`."""

    def differentiate(self, losses: Tensor, leaf: Tensor) -> Tensor | None:
        """See `Classifier.differentiate`."""

    def confirm_gradient(self, losses_at: Loss, images: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """See `Classifier.confirm_gradient`."""


class GradientGuard:
    """Looks at a classifier's gradients, repairs them and counts their faults.

    On a CPU every gradient is looked at. On a GPU that would wait for the device at each step: there the
    first one is, and the others lose what is not finite without anybody waiting. Once it is known that there
    are such, each is looked at and repaired.
    """

    def __init__(self) -> None:
        self._looks_at_each = True
        self._nonfinite_seen = torch.zeros((), dtype=torch.bool)

    def mend(
        self,
        classifier: GradientSource,
        images: Tensor,
        loss: Loss,
        rows: Tensor | None,
        losses: Tensor,
        gradient: Tensor,
    ) -> Tensor:
        """A gradient as attacks may use it: finite, and to the bit as it was in rows that are.

        Args:
            classifier: Whose it is; its open meter counts what was wrong.
            images: Where it was taken, (N, C, H, W), on the classifier's device.
            loss: From logits to losses.
            rows: As in `Classifier.gradient`.
            losses: (N,) or (N, T).
            gradient: (N, C, H, W) or (N, T, C, H, W).
        """
        seen = self._nonfinite_seen = self._nonfinite_seen.to(gradient.device)
        if self._looks_at_each and is_healthy(gradient):
            self._looks_at_each = gradient.device.type == "cpu" or bool(seen)
            return gradient
        faults = find_faults(gradient)
        seen |= faults.nonfinite.any()
        if not self._looks_at_each:
            gradient = remove_nonfinite(gradient)
            faults = GradientFaults(faults.entries, find_faults(gradient).zero, faults.unconfirmed)
        elif bool(faults.nonfinite.any()):
            gradient, faults = _repair(classifier, images, loss, rows, losses, gradient, faults)
        if (meter := classifier.open_meter) is not None:
            meter.add_faults(rows, faults)
        return gradient

    def missed_faults(self) -> bool:
        """Whether gradients were not finite and nobody looked, so that what they led to is to be done again.

        From then on every gradient is looked at.
        """
        if self._looks_at_each or not bool(self._nonfinite_seen):
            return False
        self._looks_at_each = True
        return True

    def look_at_each(self) -> None:
        """Look at every gradient from now on, on a GPU too."""
        self._looks_at_each = True
        self._nonfinite_seen = torch.ones_like(self._nonfinite_seen)


def _repair(
    classifier: GradientSource,
    images: Tensor,
    loss: Loss,
    rows: Tensor | None,
    losses: Tensor,
    gradient: Tensor,
    faults: GradientFaults,
) -> tuple[Tensor, GradientFaults]:
    """Compute the gradient once more for the rows that are not finite; arguments as `GradientGuard.mend`."""
    bad, meter = faults.nonfinite, classifier.open_meter

    def losses_at(points: Tensor) -> Tensor:
        with torch.no_grad():
            return loss(classifier(points))

    with classifier.metered(len(images)) as spent:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            again = loss(classifier(leaf))
            keep_backward_finite(again)
            repaired = classifier.differentiate(again, leaf)
        spent.add_backward(None, len(images), times=1 if losses.ndim == 1 else losses.shape[1])
        if repaired is None:  # a forward whose graph is there only now and then
            repaired = torch.zeros_like(gradient)
        there = bad.view(-1, *[1] * (gradient.ndim - 1))
        mended = torch.where(there, remove_nonfinite(repaired), gradient)
        zero = find_faults(mended).zero
        confirmed = classifier.confirm_gradient(losses_at, images, losses, mended)
    if meter is not None:
        meter.add_repairs(rows, bad, spent)
    return mended, GradientFaults(faults.entries, zero, bad & ~zero & ~confirmed)
