"""Resampling of images: bilinear sampling, and rotation with translation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from robustbench_local.bpda import clamp_with_border_gradient


def sample_bilinear(
    images: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    outside: Literal["zeros", "border", "reflection"] = "zeros",
) -> Tensor:
    """Sample the images at fractional positions, bilinearly between the four surrounding pixels.

    Args:
        images: (N, C, H, W).
        rows: Row that each output pixel samples, (N, H', W'), in pixels; the first pixel's center is 0.
        columns: Column that each output pixel samples.
        outside: Values beyond the edge: zeros, the edge pixel, or the mirrored image.

    Returns:
        (N, C, H', W').
    """
    height, width = images.shape[-2:]
    grid = torch.stack(
        [2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1],
        dim=-1,
    )
    return grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=True)


def rotate_and_translate(images: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
    """Rotate about the center, then translate; pixels from outside the image are black.

    Args:
        images: (N, C, H, W).
        angles: Degrees counterclockwise, as the viewer sees it, (N,).
        shifts: To the right and down, (N, 2), as shares of the width and the height.

    Returns:
        Same shape. A row that is neither rotated nor translated is unchanged bit for bit.

    Source: Engstrom et al. 2019, arXiv:1712.02779, section 3.
    """
    height, width = images.shape[-2:]
    row = torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2
    column = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    radians = torch.deg2rad(angles).view(-1, 1, 1)
    right = column[None, None, :] - shifts[:, 0].view(-1, 1, 1) * width
    down = row[None, :, None] - shifts[:, 1].view(-1, 1, 1) * height
    rows = right * radians.sin() + down * radians.cos() + (height - 1) / 2
    columns = right * radians.cos() - down * radians.sin() + (width - 1) / 2
    moved = sample_bilinear(images, rows, columns)
    is_unchanged = (angles == 0) & (shifts == 0).all(dim=1)
    return torch.where(is_unchanged.view(-1, 1, 1, 1), images, clamp_with_border_gradient(moved))
