"""Digital corruptions: contrast, elastic transform, pixelation, JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from robustbench_local.threats.corruptions.filters import smooth_planes
from robustbench_local.threats.warp import sample_bilinear


def apply_contrast(image: Tensor, factor: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Scale the distance of each value from its channel's mean by ``factor``."""
    mean = image.mean(dim=(1, 2), keepdim=True)
    return mean + factor * (image - mean)


def apply_elastic_transform(
    image: Tensor, strength: float, sigma: float, tilt: float, *, draws: Generator
) -> Tensor:
    """Apply a random affine map, then a smooth random displacement of every pixel.

    Args:
        image: (C, H, W).
        strength: Size of the displacement, as a share of the shorter side.
        sigma: Smoothness of the displacement, as a share of the shorter side.
        tilt: Largest shift of the affine map's three control points along each axis, likewise.
        draws: Random numbers.
    """
    height, width = image.shape[-2:]
    side = min(height, width)
    center = torch.tensor([height // 2, width // 2], dtype=torch.float32)
    corners = center + (side // 3) * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved_corners = corners + tilt * side * (2 * torch.rand(3, 2, generator=draws) - 1)
    affine = torch.linalg.solve(torch.cat([corners, torch.ones(3, 1)], dim=1), moved_corners)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    positions = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1).float()
    tilted = _sample_at(image, positions @ affine)
    displacements = (
        strength
        * side
        * smooth_planes(
            2 * torch.rand(2, height, width, generator=draws) - 1, sigma * side, truncate=3.0, mirrored=True
        )
    )
    return _sample_at(tilted, positions[..., :2] + displacements.permute(1, 2, 0))


def apply_pixelate(image: Tensor, share: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Scale down to this share of the side by averaging, and up again in blocks."""
    height, width = image.shape[-2:]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    picture = _convert_to_picture(image).resize(small, Image.Resampling.BOX)
    return _convert_to_tensor(picture.resize((width, height), Image.Resampling.BOX), image)


def apply_jpeg_compression(image: Tensor, quality: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Compress as JPEG of this quality and decode again, in memory."""
    file = io.BytesIO()
    _convert_to_picture(image).save(file, format="JPEG", quality=int(quality))
    with Image.open(file) as picture:
        return _convert_to_tensor(picture, image)


def _sample_at(image: Tensor, positions: Tensor) -> Tensor:
    """Sample the image at positions (H, W, 2) of rows and columns, mirrored beyond its edges."""
    return sample_bilinear(
        image[None], positions[None, ..., 0], positions[None, ..., 1], outside="reflection"
    )[0]


def _convert_to_picture(image: Tensor) -> Image.Image:
    """Convert a tensor of one or three channels to an 8-bit picture."""
    levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def _convert_to_tensor(picture: Image.Image, like: Tensor) -> Tensor:
    """Convert the picture to a tensor of the shape and dtype of ``like``."""
    levels = torch.from_numpy(np.array(picture)).view(*like.shape[-2:], len(like))
    return levels.permute(2, 0, 1).to(like.dtype) / 255
