"""Printability of a sticker: smoothness, and distance to the colors of a printer."""

from __future__ import annotations

import torch
from torch import Tensor

PRINTABLE_COLOURS = (
    (27, 14, 28), (123, 24, 43), (128, 134, 45), (21, 81, 47), (122, 156, 132), (19, 79, 117),
    (173, 38, 46), (22, 36, 67), (68, 94, 122), (194, 138, 139), (187, 126, 70), (66, 90, 46),
    (122, 57, 93), (69, 22, 30), (181, 82, 51), (70, 35, 75), (192, 193, 161), (73, 140, 105),
    (121, 74, 39), (191, 179, 73), (25, 109, 113), (129, 166, 168), (32, 109, 60), (125, 149, 86),
    (67, 126, 67), (19, 38, 32), (23, 52, 92), (175, 40, 77), (77, 139, 147), (183, 84, 104),
)  # fmt: skip
"""Thirty colors of an office printer, as photographed, in levels of 255.

Source: Sharif et al. 2016, doi:10.1145/2976749.2978392, section 5.2; the values published with Eykholt et al.
2018, arXiv:1707.08945."""


def compute_total_variation(images: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean absolute difference of neighbouring pixels inside the mask.

    Args:
        images: (N, C, H, W).
        mask: (N, 1, H, W), boolean.

    Returns:
        (N,); 0 if no two pixels of the mask are neighbours.

    Source: Rudin, Osher & Fatemi 1992, doi:10.1016/0167-2789(92)90242-F (the anisotropic form).
    """
    total, pairs = images.new_zeros(len(images)), images.new_zeros(len(images))
    for axis in (2, 3):
        size = images.shape[axis] - 1
        both = mask.narrow(axis, 0, size) & mask.narrow(axis, 1, size)
        steps = (images.narrow(axis, 1, size) - images.narrow(axis, 0, size)).abs() * both
        total = total + steps.flatten(1).sum(dim=1)
        pairs = pairs + both.flatten(1).sum(dim=1)
    return total / (pairs * images.shape[1]).clamp_min(1)


def compute_non_printability(images: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean distance of the mask's pixels to the nearest printable color.

    The published score multiplies the distances to all thirty colors. The product is near 1e-10 everywhere
    and has no useful gradient, so this function uses the nearest color alone.

    Args:
        images: (N, C, H, W) in [0, 1], C = 1 or 3.
        mask: (N, 1, H, W), boolean.

    Returns:
        (N,), from 0 to the diagonal of the color cube; 0 for an empty mask.

    Source: Sharif et al. 2016, doi:10.1145/2976749.2978392, section 5.2.
    """
    palette = torch.tensor(PRINTABLE_COLOURS, dtype=images.dtype, device=images.device) / 255
    colours = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    nearest = palette[(colours.detach()[..., None, :] - palette).square().sum(dim=-1).argmin(dim=-1)]
    # the square root has an infinite slope at zero
    distances = ((colours - nearest).square().sum(dim=-1) + 1e-12).sqrt() * mask[:, 0]
    return distances.flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp_min(1)
