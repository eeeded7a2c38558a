"""Building blocks of the corruptions: smoothing, streaks, zooms and clouds."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Generator, Tensor

from robustbench_local.threats.warp import sample_bilinear


def smooth_planes(planes: Tensor, sigma: float, *, truncate: float = 4.0, mirrored: bool = False) -> Tensor:
    """Smooth with a Gaussian.

    Args:
        planes: (C, H, W).
        sigma: Standard deviation in pixels; 0 changes nothing.
        truncate: Radius of the kernel, in sigmas.
        mirrored: Mirror the image beyond its edges; otherwise repeat the edge pixels.

    Returns:
        Same shape.
    """
    if sigma <= 0:
        return planes
    height, width = planes.shape[-2:]
    down = _build_smoothing_matrix(height, sigma, truncate, mirrored)
    across = _build_smoothing_matrix(width, sigma, truncate, mirrored)
    return down @ planes @ across.T


@lru_cache(maxsize=64)
def _build_smoothing_matrix(size: int, sigma: float, truncate: float, mirrored: bool) -> Tensor:
    """Build the smoothing of a line of pixels as a matrix, so that wide kernels need no padding."""
    reach = int(truncate * sigma + 0.5)
    taps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (taps / sigma).double() ** 2)
    positions = torch.arange(size)[:, None] + taps
    indices = mirror_indices(positions, size) if mirrored else positions.clamp(0, size - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, indices, (weights / weights.sum()).expand_as(indices))
    return matrix.float()


def mirror_indices(positions: Tensor, size: int) -> Tensor:
    """Mirror positions beyond the ends of a line back into it, repeatedly: ``b a | a b c | c b``."""
    wrapped = positions % (2 * size)
    return torch.where(wrapped >= size, 2 * size - 1 - wrapped, wrapped)


def smear_streak(planes: Tensor, radius: int, sigma: float, degrees: float) -> Tensor:
    """Smear in one direction, one-sided, like the image of a moving camera.

    Args:
        planes: (C, H, W).
        radius: The streak is ``2 * radius + 1`` pixels long.
        sigma: Width of the half Gaussian of its weights.
        degrees: Direction; 0 is along the rows, 90 along the columns.

    Returns:
        Same shape; edge pixels are repeated beyond the edge.
    """
    height, width = planes.shape[-2:]
    steps = torch.arange(2 * radius + 1)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights = weights / weights.sum()
    angle = math.radians(degrees)
    downs = (steps * math.sin(angle)).round().long()
    rights = (steps * math.cos(angle)).round().long()
    rows = torch.arange(-2 * radius, height + 2 * radius).clamp(0, height - 1)
    columns = torch.arange(-2 * radius, width + 2 * radius).clamp(0, width - 1)
    padded = planes[:, rows][:, :, columns]
    smeared = torch.zeros_like(planes)
    for weight, down, right in zip(weights.tolist(), downs.tolist(), rights.tolist(), strict=True):
        top, left = 2 * radius + down, 2 * radius + right
        smeared.add_(padded[:, top : top + height, left : left + width], alpha=weight)
    return smeared


def magnify_planes(planes: Tensor, factors: Tensor) -> Tensor:
    """Enlarge the middle of an image to its full size, at several factors.

    Args:
        planes: (C, H, W).
        factors: (K,), at least 1.

    Returns:
        (K, C, H, W).
    """
    height, width = planes.shape[-2:]
    row, column = (height - 1) / 2, (width - 1) / 2
    rows = row + (torch.arange(height) - row) / factors[:, None]
    columns = column + (torch.arange(width) - column) / factors[:, None]
    count = len(factors)
    return sample_bilinear(
        planes.expand(count, -1, -1, -1),
        rows[:, :, None].expand(count, height, width),
        columns[:, None, :].expand(count, height, width),
        outside="border",
    )


def sample_cloud(height: int, width: int, decay: float, draws: Generator) -> Tensor:
    """Sample a fractal landscape by midpoint displacement on a torus.

    Args:
        height: Rows.
        width: Columns.
        decay: Square root of the factor by which the displacement shrinks at each finer scale.
        draws: Random numbers.

    Returns:
        (H, W) from 0 to 1.

    Source: Fournier, Fussell & Carpenter 1982, doi:10.1145/358523.358553 (the diamond-square scheme).
    """
    land, displacement = torch.zeros(1, 1), 1.0
    while len(land) < max(height, width, 2):
        finer = torch.empty(2 * len(land), 2 * len(land))
        displaced = (torch.rand(3, *land.shape, generator=draws) * 2 - 1) * displacement
        below, right = land.roll(-1, 0), land.roll(-1, 1)
        centers = (land + below + right + right.roll(-1, 0)) / 4 + displaced[0]
        finer[::2, ::2] = land
        finer[1::2, 1::2] = centers
        finer[::2, 1::2] = (land + right + centers + centers.roll(1, 0)) / 4 + displaced[1]
        finer[1::2, ::2] = (land + below + centers + centers.roll(1, 1)) / 4 + displaced[2]
        land, displacement = finer, displacement / decay**2
    land = land - land.min()
    return (land / land.max())[:height, :width]
