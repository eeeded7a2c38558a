"""JPEG compression of a whole batch, each image at its own quality, up to the lossless steps.

This is baseline JPEG as cameras and libraries write it: the standard's example tables, scaled by the quality
as the Independent JPEG Group does, and colors at half the resolution. The lossless entropy coding is omitted.

Source: ITU-T T.81 (1992), annex K.1 and A.3.3; Wallace 1992, doi:10.1109/30.125072.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

_LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_RGB_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
"""Source: JFIF 1.02 (1992), color space."""
_YCC_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def compress_jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Compress each image as JPEG and decode it.

    Args:
        images: (B, C, H, W) in [0, 1], C = 1 or 3.
        quality: (B,), integers from 1 to 100; 0 leaves an image unchanged.

    Returns:
        Same shape; compressed images are on the 8-bit grid. There is no gradient.
    """
    with torch.no_grad():
        levels = (images * 255).round()
        if images.shape[1] == 1:
            planes = _quantize_blocks(levels[:, 0] - 128, _scale_tables(_LUMINANCE_TABLE, quality)) + 128
            decoded = planes[:, None]
        else:
            luma, *chroma = _convert_colours(levels, _RGB_TO_YCC).round().unbind(1)
            luma = _quantize_blocks(luma - 128, _scale_tables(_LUMINANCE_TABLE, quality)) + 128
            table = _scale_tables(_CHROMINANCE_TABLE, quality)
            coarse = [
                _upsample_planes(_quantize_blocks(_downsample_planes(plane), table), *images.shape[-2:])
                for plane in chroma
            ]
            decoded = _convert_colours(torch.stack([luma, *coarse], dim=1), _YCC_TO_RGB)
        return torch.where((quality > 0).view(-1, 1, 1, 1), decoded.round().clamp(0, 255) / 255, images)


def _scale_tables(table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Return the quantization steps at each quality, (B, 1, 1, 8, 8)."""
    exact = quality.clamp_min(1).view(-1, 1, 1, 1, 1)
    percent = torch.where(exact < 50, (5000 / exact).floor(), 200 - 2 * exact)
    steps = torch.tensor(table, dtype=quality.dtype, device=quality.device)
    return ((steps * percent + 50) / 100).floor().clamp(1, 255)


def _quantize_blocks(planes: Tensor, table: Tensor) -> Tensor:
    """Transform planes (B, H, W) of levels around 0 in blocks of 8, quantize them and transform back."""
    height, width = planes.shape[-2:]
    filled = pad(planes[:, None], (0, -width % 8, 0, -height % 8), mode="replicate")[:, 0]
    down, across = filled.shape[1] // 8, filled.shape[2] // 8
    blocks = filled.view(-1, down, 8, across, 8).transpose(2, 3)
    basis = _build_dct_matrix().to(planes)
    table = table.to(planes)
    coefficients = ((basis @ blocks @ basis.T) / table).round() * table
    decoded = (basis.T @ coefficients @ basis).transpose(2, 3).reshape(filled.shape)
    return decoded[:, :height, :width]


@lru_cache(maxsize=1)
def _build_dct_matrix() -> Tensor:
    """Build the orthonormal cosine transform of 8 numbers, (frequency, position)."""
    positions = torch.arange(8, dtype=torch.float64)
    rows = torch.cos((2 * positions[None, :] + 1) * positions[:, None] * math.pi / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows


def _convert_colours(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Convert to another color space: (B, 3, H, W)."""
    return torch.einsum("bchw,dc->bdhw", images, torch.tensor(matrix).to(images))


def _downsample_planes(planes: Tensor) -> Tensor:
    """Average each 2 by 2 pixels; an unpaired last row or column is repeated."""
    height, width = planes.shape[-2:]
    filled = pad(planes[:, None], (0, width % 2, 0, height % 2), mode="replicate")
    return avg_pool2d(filled, 2)[:, 0].round()


def _upsample_planes(planes: Tensor, height: int, width: int) -> Tensor:
    """Double the size: each new pixel is a quarter pixel off its original, interpolated with the next."""
    filled = pad(planes[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    for axis in (1, 2):
        size = filled.shape[axis] - 2
        before, current, after = (filled.narrow(axis, start, size) for start in (0, 1, 2))
        filled = torch.stack([0.75 * current + 0.25 * before, 0.75 * current + 0.25 * after], dim=axis + 1)
        filled = filled.flatten(axis, axis + 1)
    return filled[:, :height, :width]
