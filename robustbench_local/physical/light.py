"""The light on a sign: no sticker is brighter than white paper would be there, nor darker than black ink."""

from __future__ import annotations

import torch
from torch import Tensor

_TAIL = 0.02
"""Share of the surface's values, at either end, that are glare or noise rather than white or black."""


def light_on(images: Tensor, surfaces: Tensor) -> tuple[Tensor, Tensor]:
    """What black and white look like on each sign.

    Args:
        images: (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.

    Returns:
        The darkest and the brightest value of the surface but for 2 % at either end, (N, 1, 1, 1) each; 0 and
        1 where there is no surface.

    Source: Hingun et al. 2022, arXiv:2212.05680, section 3 (relighting by percentiles).
    """
    inside = images.detach().masked_fill(~surfaces, torch.nan).flatten(1)
    ends = (
        torch.nanquantile(inside, share, dim=1).nan_to_num(nan).view(-1, 1, 1, 1)
        for share, nan in ((_TAIL, 0.0), (1 - _TAIL, 1.0))
    )
    low, high = ends
    return low, high


def lit(colours: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """Printed colours as they look in the light on each sign: 0 as its black, 1 as its white.

    Args:
        colours: (N, C, h, w) in [0, 1].
        images: The signs, (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.

    Returns:
        The shape of ``colours``; differentiable by them.
    """
    low, high = light_on(images, surfaces)
    return low + (high - low) * colours


def unlit(seen: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """The inverse of :func:`lit`: colours as a printer would need them, in [0, 1]; arguments alike."""
    low, high = light_on(images, surfaces)
    return ((seen - low) / (high - low).clamp_min(1e-3)).clamp(0.0, 1.0)
