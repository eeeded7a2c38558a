"""Pictures read at other places: bilinear sampling, and rotation with translation on top of it."""

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
    """The images read at fractional places, bilinear between the four pixels around.

    Args:
        images: (N, C, H, W).
        rows: Where each output pixel looks, (N, H', W'), in pixels; the first pixel's centre is 0.
        columns: The same along the width.
        outside: What lies beyond the edge: nothing, the edge's pixel, or the mirrored image.

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
    """Rotate about the centre, then move; what comes in from outside is black.

    Args:
        images: (N, C, H, W).
        angles: Degrees counterclockwise as seen, (N,).
        shifts: To the right and down, (N, 2), as shares of the width and the height.

    Returns:
        Same shape. A row that is neither turned nor moved comes back bit for bit.

    Source: Engstrom et al. 2019, arXiv:1712.02779, section 3.
    """
    height, width = images.shape[-2:]
    row = torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2
    column = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    turn = torch.deg2rad(angles).view(-1, 1, 1)
    right = column[None, None, :] - shifts[:, 0].view(-1, 1, 1) * width
    down = row[None, :, None] - shifts[:, 1].view(-1, 1, 1) * height
    rows = right * turn.sin() + down * turn.cos() + (height - 1) / 2
    columns = right * turn.cos() - down * turn.sin() + (width - 1) / 2
    moved = sample_bilinear(images, rows, columns)
    still = (angles == 0) & (shifts == 0).all(dim=1)
    return torch.where(still.view(-1, 1, 1, 1), images, clamp_with_border_gradient(moved))
