"""JPEG for a whole batch at once, each picture at its own quality: what quantization leaves of the pixels.

Baseline JPEG as cameras and libraries write it: the example tables of the standard scaled by the quality as
the Independent JPEG Group does, colours at half the resolution. The entropy coding, which loses nothing, is
left out.

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
"""Source: JFIF 1.02 (1992), colour space."""
_YCC_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def compress_jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Each image as it comes back from a JPEG file.

    Args:
        images: (B, C, H, W) in [0, 1], C = 1 or 3.
        quality: (B,), whole numbers from 1 to 100; 0 leaves an image alone.

    Returns:
        Same shape, on the 8-bit grid where an image was compressed; without gradient.
    """
    with torch.no_grad():
        levels = (images * 255).round()
        if images.shape[1] == 1:
            planes = _quantize_blocks(levels[:, 0] - 128, _scale_tables(_LUMINANCE_TABLE, quality)) + 128
            found = planes[:, None]
        else:
            luma, *chroma = _convert_colours(levels, _RGB_TO_YCC).round().unbind(1)
            luma = _quantize_blocks(luma - 128, _scale_tables(_LUMINANCE_TABLE, quality)) + 128
            table = _scale_tables(_CHROMINANCE_TABLE, quality)
            coarse = [
                _upsample_planes(_quantize_blocks(_downsample_planes(plane), table), *images.shape[-2:])
                for plane in chroma
            ]
            found = _convert_colours(torch.stack([luma, *coarse], dim=1), _YCC_TO_RGB)
        return torch.where((quality > 0).view(-1, 1, 1, 1), found.round().clamp(0, 255) / 255, images)


def _scale_tables(table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """The quantization steps at each quality, (B, 1, 1, 8, 8)."""
    exact = quality.clamp_min(1).view(-1, 1, 1, 1, 1)
    percent = torch.where(exact < 50, (5000 / exact).floor(), 200 - 2 * exact)
    steps = torch.tensor(table, dtype=quality.dtype, device=quality.device)
    return ((steps * percent + 50) / 100).floor().clamp(1, 255)


def _quantize_blocks(planes: Tensor, table: Tensor) -> Tensor:
    """Planes (B, H, W) of levels about 0, transformed in blocks of 8, quantized and transformed back."""
    height, width = planes.shape[-2:]
    filled = pad(planes[:, None], (0, -width % 8, 0, -height % 8), mode="replicate")[:, 0]
    down, across = filled.shape[1] // 8, filled.shape[2] // 8
    blocks = filled.view(-1, down, 8, across, 8).transpose(2, 3)
    basis = _build_dct_matrix().to(planes)
    table = table.to(planes)
    kept = ((basis @ blocks @ basis.T) / table).round() * table
    back = (basis.T @ kept @ basis).transpose(2, 3).reshape(filled.shape)
    return back[:, :height, :width]


@lru_cache(maxsize=1)
def _build_dct_matrix() -> Tensor:
    """The orthonormal cosine transform of 8 numbers, (frequency, place)."""
    places = torch.arange(8, dtype=torch.float64)
    rows = torch.cos((2 * places[None, :] + 1) * places[:, None] * math.pi / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows


def _convert_colours(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Another colour space: (B, 3, H, W)."""
    return torch.einsum("bchw,dc->bdhw", images, torch.tensor(matrix).to(images))


def _downsample_planes(planes: Tensor) -> Tensor:
    """The mean of each 2 by 2 pixels, the last row and column repeated where they have no partner."""
    height, width = planes.shape[-2:]
    filled = pad(planes[:, None], (0, width % 2, 0, height % 2), mode="replicate")
    return avg_pool2d(filled, 2)[:, 0].round()


def _upsample_planes(planes: Tensor, height: int, width: int) -> Tensor:
    """Twice as large: each new pixel lies a quarter off its own old one, between it and the next."""
    filled = pad(planes[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    for axis in (1, 2):
        size = filled.shape[axis] - 2
        before, own, after = (filled.narrow(axis, start, size) for start in (0, 1, 2))
        filled = torch.stack([0.75 * own + 0.25 * before, 0.75 * own + 0.25 * after], dim=axis + 1)
        filled = filled.flatten(axis, axis + 1)
    return filled[:, :height, :width]
