"""Changes of a training image that never turn one sign into another."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def augment(images: Tensor, shift: int, brightness: float, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``shift`` pixels, border repeated, and scale its brightness."""
    count, channels, height, width = images.shape
    padded = nn.functional.pad(images, (shift,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows = (top + torch.arange(height)).view(count, 1, height, 1)
    columns = (left + torch.arange(width)).view(count, 1, 1, width)
    moved = padded[
        torch.arange(count).view(-1, 1, 1, 1), torch.arange(channels).view(-1, 1, 1), rows, columns
    ]
    gain = 1 + brightness * (2 * torch.rand((count, 1, 1, 1), generator=generator) - 1)
    return (moved * gain).clamp(0, 1)
