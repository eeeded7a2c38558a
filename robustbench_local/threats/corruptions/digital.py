"""What processing does: contrast, stretching, coarse pixels, JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from robustbench_local.threats.corruptions.filters import smooth_planes
from robustbench_local.threats.warp import sample_bilinear


def apply_contrast(image: Tensor, factor: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """The distance of each value from its channel's mean, shrunk by ``factor``."""
    mean = image.mean(dim=(1, 2), keepdim=True)
    return mean + factor * (image - mean)


def apply_elastic_transform(
    image: Tensor, strength: float, sigma: float, tilt: float, *, draws: Generator
) -> Tensor:
    """A random affine map, then a smooth random displacement of every pixel.

    Args:
        image: (C, H, W).
        strength: Factor on the displacement, as a share of the shorter side.
        sigma: Smoothness of the displacement, as a share of the shorter side.
        tilt: How far the three points that fix the affine map may move along each axis, likewise.
        draws: Random numbers.
    """
    height, width = image.shape[-2:]
    side = min(height, width)
    middle = torch.tensor([height // 2, width // 2], dtype=torch.float32)
    corners = middle + (side // 3) * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = corners + tilt * side * (2 * torch.rand(3, 2, generator=draws) - 1)
    affine = torch.linalg.solve(torch.cat([corners, torch.ones(3, 1)], dim=1), moved)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1).float()
    tilted = _sample_at(image, places @ affine)
    pushes = (
        strength
        * side
        * smooth_planes(
            2 * torch.rand(2, height, width, generator=draws) - 1, sigma * side, truncate=3.0, mirrored=True
        )
    )
    return _sample_at(tilted, places[..., :2] + pushes.permute(1, 2, 0))


def apply_pixelate(image: Tensor, share: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Scaled down to this share of the side by averaging, and up again in blocks."""
    height, width = image.shape[-2:]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    picture = _convert_to_picture(image).resize(small, Image.Resampling.BOX)
    return _convert_to_tensor(picture.resize((width, height), Image.Resampling.BOX), image)


def apply_jpeg_compression(image: Tensor, quality: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Written as JPEG of this quality and read again, in memory."""
    file = io.BytesIO()
    _convert_to_picture(image).save(file, format="JPEG", quality=int(quality))
    with Image.open(file) as picture:
        return _convert_to_tensor(picture, image)


def _sample_at(image: Tensor, places: Tensor) -> Tensor:
    """The image read at places (H, W, 2) of rows and columns, mirrored beyond its edges."""
    return sample_bilinear(image[None], places[None, ..., 0], places[None, ..., 1], outside="reflection")[0]


def _convert_to_picture(image: Tensor) -> Image.Image:
    """A tensor of one or three channels as an 8-bit picture."""
    levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def _convert_to_tensor(picture: Image.Image, like: Tensor) -> Tensor:
    """The picture as a tensor in the form of ``like``."""
    levels = torch.from_numpy(np.array(picture)).view(*like.shape[-2:], len(like))
    return levels.permute(2, 0, 1).to(like.dtype) / 255
