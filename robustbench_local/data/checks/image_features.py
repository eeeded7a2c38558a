"""Features of small images without a network: oriented gradients and colors.

Source: Dalal and Triggs 2005, "Histograms of oriented gradients for human detection", CVPR.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

_BINS = 8
_CLIP = 0.4  # largest entry of a normalized block
_COLOR_WEIGHT = 0.5
_BATCH = 512


def compute_image_features(thumbnails: Tensor) -> Tensor:
    """Return features in which a linear or kernel classifier tells many classes of objects apart.

    Args:
        thumbnails: (N, 3, 32, 32), uint8.

    Returns:
        (N, D), float32; each part is centered and scaled to mean length 1 over the images.
    """
    batches = [_compute_parts(batch.float() / 255) for batch in torch.split(thumbnails, _BATCH)]
    parts = [torch.cat(part) for part in zip(*batches, strict=True)]
    weights = (1.0, 1.0, _COLOR_WEIGHT, _COLOR_WEIGHT)
    return torch.cat([weight * _scale_part(part) for weight, part in zip(weights, parts, strict=True)], dim=1)


def _compute_parts(images: Tensor) -> tuple[Tensor, ...]:
    luminance = images.mean(dim=1, keepdim=True)
    spread = luminance.std(dim=(2, 3), keepdim=True).clamp_min(0.01)
    standardized = (images - luminance.mean(dim=(2, 3), keepdim=True)) / spread
    chroma = F.avg_pool2d(images / (images.sum(dim=1, keepdim=True) + 0.05), 4).flatten(1)
    fine = _compute_gradient_histograms(standardized, cell=4, stride=2)
    coarse = _compute_gradient_histograms(standardized, cell=8, stride=1)
    return fine, coarse, chroma, F.avg_pool2d(standardized, 4).flatten(1)


def _compute_gradient_histograms(images: Tensor, *, cell: int, stride: int) -> Tensor:
    """Return normalized histograms of gradient directions in blocks of 2 by 2 cells."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    size = (across.square() + down.square()).sqrt()
    strongest = size.argmax(dim=1, keepdim=True)  # the channel with the strongest gradient decides
    across, down, size = (part.gather(1, strongest) for part in (across, down, size))
    angle = torch.atan2(down, across).remainder(torch.pi) * (_BINS / torch.pi)
    distance = (angle - (torch.arange(_BINS).view(1, -1, 1, 1) + 0.5)).abs()
    share = (1 - torch.minimum(distance, _BINS - distance)).clamp_min(0)
    blocks = F.unfold(F.avg_pool2d(size * share, cell), 2, stride=stride)
    clipped = (blocks / (blocks.norm(dim=1, keepdim=True) + 0.1)).clamp_max(_CLIP)
    normalized: Tensor = clipped / (clipped.norm(dim=1, keepdim=True) + 1e-3)
    return normalized.flatten(1)


def _scale_part(part: Tensor) -> Tensor:
    centered = part - part.mean(dim=0)
    length: Tensor = centered.norm(dim=1).mean().clamp_min(1e-6)
    return centered / length
