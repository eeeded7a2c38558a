"""The guard that keeps every gradient from `Classifier.gradient` finite and counts faults."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from robustbench_local.classifier.gradient_repair import (
    GradientFaults,
    find_faults,
    is_finite_and_nonzero,
    keep_backward_finite,
    remove_nonfinite,
)
from robustbench_local.classifier.pass_counter import PassCounter

LossFunction = Callable[[Tensor], Tensor]


class GradientSource(Protocol):
    """The part of a `Classifier`, which lies above this module, that the guard needs."""

    @property
    def open_counter(self) -> PassCounter | None:
        """See `Classifier.open_counter`."""

    def count_passes(self, count: int, limit: int | None = None) -> AbstractContextManager[PassCounter]:
        """See `Classifier.count_passes`."""

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `Classifier.__call__`."""

    def differentiate_losses(self, losses: Tensor, leaf: Tensor) -> Tensor | None:
        """See `Classifier.differentiate_losses`."""

    def confirm_gradient(
        self, losses_at: LossFunction, images: Tensor, losses: Tensor, gradient: Tensor
    ) -> Tensor:
        """See `Classifier.confirm_gradient`."""


class GradientGuard:
    """Checks a classifier's gradients, repairs them and counts their faults.

    On a CPU every gradient is checked. On a GPU a check would wait for the device at each step: there only
    the first gradient is checked, and non-finite values in later ones are dropped without waiting. Once a
    non-finite value is known, every gradient is checked and repaired.
    """

    def __init__(self) -> None:
        self._checks_every_gradient = True
        self._has_seen_nonfinite = torch.zeros((), dtype=torch.bool)

    def repair_gradient(
        self,
        classifier: GradientSource,
        images: Tensor,
        loss: LossFunction,
        rows: Tensor | None,
        losses: Tensor,
        gradient: Tensor,
    ) -> Tensor:
        """Return a gradient that attacks may use: finite, and bit-equal in rows that already were.

        Args:
            classifier: The classifier of the gradient; its open counter counts the faults.
            images: Where the gradient was computed, (N, C, H, W), on the classifier's device.
            loss: From logits to losses.
            rows: As in `Classifier.compute_gradient`.
            losses: (N,) or (N, T).
            gradient: (N, C, H, W) or (N, T, C, H, W).
        """
        has_seen = self._has_seen_nonfinite = self._has_seen_nonfinite.to(gradient.device)
        if self._checks_every_gradient and is_finite_and_nonzero(gradient):
            self._checks_every_gradient = gradient.device.type == "cpu" or bool(has_seen)
            return gradient
        faults = find_faults(gradient)
        has_seen |= faults.nonfinite.any()
        if not self._checks_every_gradient:
            gradient = remove_nonfinite(gradient)
            faults = GradientFaults(
                faults.nonfinite_entries, find_faults(gradient).is_zero, faults.unconfirmed
            )
        elif bool(faults.nonfinite.any()):
            gradient, faults = _repair_rows(classifier, images, loss, rows, losses, gradient, faults)
        if (counter := classifier.open_counter) is not None:
            counter.add_faults(rows, faults)
        return gradient

    def detect_missed_faults(self) -> bool:
        """Check whether unchecked gradients were not finite, so that their results have to be computed again.

        From then on every gradient is checked.
        """
        if self._checks_every_gradient or not bool(self._has_seen_nonfinite):
            return False
        self._checks_every_gradient = True
        return True

    def check_every_gradient(self) -> None:
        """Check every gradient from now on, on a GPU too."""
        self._checks_every_gradient = True
        self._has_seen_nonfinite = torch.ones_like(self._has_seen_nonfinite)


def _repair_rows(
    classifier: GradientSource,
    images: Tensor,
    loss: LossFunction,
    rows: Tensor | None,
    losses: Tensor,
    gradient: Tensor,
    faults: GradientFaults,
) -> tuple[Tensor, GradientFaults]:
    """Compute the gradient again for non-finite rows; arguments as `GradientGuard.repair_gradient`."""
    bad, counter = faults.nonfinite, classifier.open_counter

    def losses_at(points: Tensor) -> Tensor:
        with torch.no_grad():
            return loss(classifier(points))

    with classifier.count_passes(len(images)) as spent:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            again = loss(classifier(leaf))
            keep_backward_finite(again)
            repaired = classifier.differentiate_losses(again, leaf)
        spent.add_backward(None, len(images), times=1 if losses.ndim == 1 else losses.shape[1])
        if repaired is None:  # a forward that records a graph only sometimes
            repaired = torch.zeros_like(gradient)
        is_bad = bad.view(-1, *[1] * (gradient.ndim - 1))
        mended = torch.where(is_bad, remove_nonfinite(repaired), gradient)
        zero = find_faults(mended).is_zero
        confirmed = classifier.confirm_gradient(losses_at, images, losses, mended)
    if counter is not None:
        counter.add_repairs(rows, bad, spent)
    return mended, GradientFaults(faults.nonfinite_entries, zero, bad & ~zero & ~confirmed)
