"""One or several parts of a model as a model of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.adaptive.findings import PartFinding, PartInput
from robustbench_local.attacks.adaptive.local_slopes import select_output

MIN_PROBABILITY = 1e-30
"""Smallest probability whose logarithm is taken."""
_MISSING_LOGIT = -1e4
"""Logit of a class that a part does not know, such as the one of a detector."""


def resize_to_part(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return images, (N, C, H, W), in a part's size (bilinear); None: as they are."""
    if size is None or tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def convert_to_part_input(images: Tensor, part_input: PartInput | None) -> Tensor:
    """Return what a part gets for the model's input, (N, C, H, W)."""
    if part_input is None:
        return images
    slopes, offsets = (
        torch.tensor(values, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        for values in (part_input.slopes, part_input.offsets)
    )
    return resize_to_part(images, part_input.size) * slopes + offsets


class PartModel(nn.Module):
    """The mean of the log-probabilities of several parts; the logits of a single one.

    Args:
        parts: Modules from images to (N, K) or (N, K - 1).
        findings: What is known of each; empty: nothing.
        num_classes: K.
    """

    def __init__(self, parts: Sequence[nn.Module], findings: Sequence[PartFinding], num_classes: int) -> None:
        super().__init__()
        self.parts, self._num_classes = nn.ModuleList(parts), num_classes
        self._findings = tuple(findings)

    def forward(self, images: Tensor) -> Tensor:
        """Return joint logits, (N, K)."""
        outputs = [self._compute_part(index, images) for index in range(len(self.parts))]
        if len(outputs) == 1:
            return outputs[0]
        return torch.stack([output.log_softmax(dim=1) for output in outputs]).mean(dim=0)

    def _compute_part(self, index: int, images: Tensor) -> Tensor:
        finding = self._findings[index] if self._findings else None
        output = select_output(
            self.parts[index](convert_to_part_input(images, None if finding is None else finding.input))
        )
        if output is None:
            raise RuntimeError("a part gives no scores")
        if finding is not None and finding.gives_probabilities:
            output = output.clamp_min(MIN_PROBABILITY).log()
        missing = self._num_classes - output.shape[1]
        return F.pad(output, (0, missing), value=_MISSING_LOGIT) if missing > 0 else output
