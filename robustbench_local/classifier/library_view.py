"""A classifier in the form other libraries expect: a module from images to logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.classifier.gradient_repair import (
    GradientFaults,
    find_faults,
    is_finite_and_nonzero,
    keep_backward_finite,
    remove_nonfinite,
)
from robustbench_local.classifier.pass_counter import PassCounter, record_finished_pass


class CountedModule(nn.Module):
    """A classifier in the form other libraries expect: a module from images to logits that counts rows.

    Gradients returned to the images are finite: non-finite ones are computed again, with NaN and infinities
    removed where they arise.

    Args:
        forward: Images (N, C, H, W) in [0, 1] to logits (N, K).
        total: ``[forward rows, backward rows]``, incremented at every pass.
        model: The module behind it, so that ``parameters()`` and ``eval()`` reach it; None for a callable.
        on_faults: Called with images, (N, C, H, W), and the faults of their gradients.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        total: list[int],
        model: nn.Module | None,
        on_faults: Callable[[Tensor, GradientFaults], None] = lambda *_: None,
    ) -> None:
        super().__init__()
        self._images_to_logits = forward
        self._total = total
        self._on_faults = on_faults
        self.model = model
        self.training = model.training if model is not None else False

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, K), of images, (N, C, H, W); a backward pass through them is counted too."""
        slopes: list[Tensor] = []
        logits = self._images_to_logits(
            _FiniteGradient.apply(images, partial(self._repair_input_gradient, slopes))
        )
        self._total[0] += len(images)
        if logits.requires_grad:
            logits.register_hook(partial(self._record_output_gradient, slopes))  # type: ignore[no-untyped-call]
        return logits

    def _record_output_gradient(self, slopes: list[Tensor], slope: Tensor) -> Tensor:
        """Record the start of a backward pass and its incoming gradient, without non-finite values."""
        record_finished_pass()
        self._total[1] += len(slope)
        finite = remove_nonfinite(slope)
        slopes[:] = [finite.detach()]
        return finite

    def _repair_input_gradient(self, slopes: list[Tensor], images: Tensor, gradient: Tensor) -> Tensor:
        """Repair the gradient with respect to the images at the end of a backward pass."""
        if is_finite_and_nonzero(gradient):
            return gradient
        faults, mended = find_faults(gradient), gradient
        if bool(faults.nonfinite.any()):
            with torch.enable_grad():
                leaf = images.detach().requires_grad_()
                logits = self._images_to_logits(leaf)
                keep_backward_finite(logits)
                (repaired,) = torch.autograd.grad(logits, leaf, slopes[0])
            self._total[0] += len(images)
            self._total[1] += len(images)
            bad = faults.nonfinite.view(-1, 1, 1, 1)
            mended = torch.where(bad, remove_nonfinite(repaired), gradient)
            faults.is_zero.copy_(find_faults(mended).is_zero)
        self._on_faults(images, faults)
        return mended


class _FiniteGradient(torch.autograd.Function):
    """Identity forward; backward, a finite gradient in torch's memory order, as other libraries expect."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, mend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.repair_gradient = mend
        ctx.save_for_backward(images)
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return ctx.repair_gradient(ctx.saved_tensors[0], slopes[0].contiguous()), None


def count_nearest_faults(
    open_meter: Callable[[], PassCounter | None],
    originals: Tensor | None,
    images: Tensor,
    faults: GradientFaults,
) -> None:
    """Count each gradient fault for the original nearest to the image of that gradient.

    Args:
        open_meter: The open pass counter; None without one.
        originals: Its images, (N, C, H, W); None to count nothing.
        images: (M, C, H, W), the images of the gradients.
        faults: The gradient faults.
    """
    counter = open_meter()
    if counter is None or originals is None:
        return
    away = torch.cdist(images.flatten(1), originals.to(images).flatten(1), p=torch.inf)
    counter.add_faults(away.argmin(dim=1), faults)
