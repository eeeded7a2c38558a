"""The light on a sign: no sticker is brighter than white paper would be there, nor darker than black ink."""

from __future__ import annotations

import torch
from torch import Tensor

_CONTRAST_MARGIN_SHARE = 0.2
"""How far paper and ink reach beyond a sign's own brightest and darkest pixel, in its contrast. On 40
rendered stop signs of 32 pixels a perfect black lies .18 (10 to 90% of signs: .11 to .35) below, a perfect
white .07 (-.04 to .29) above: thin white strokes are blurred with red, and red is no black."""


def find_light_range(images: Tensor, surfaces: Tensor) -> tuple[Tensor, Tensor]:
    """What the blackest ink and the whitest paper look like on each sign.

    Args:
        images: (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.

    Returns:
        Two values a sign, (N, 1, 1, 1) each, inside [0, 1]: the surface's darkest and brightest pixel, and a
        fifth of their contrast beyond; 0 and 1 where there is no surface.

    Source: after the relighting of Hingun et al. 2022, arXiv:2212.05680, section 3.
    """
    inside = images.detach()
    darkest = inside.masked_fill(~surfaces, torch.inf).flatten(1).amin(dim=1)
    brightest = inside.masked_fill(~surfaces, -torch.inf).flatten(1).amax(dim=1)
    beyond = _CONTRAST_MARGIN_SHARE * (brightest - darkest)
    low, high = darkest - beyond, brightest + beyond
    nowhere = ~surfaces.flatten(1).any(dim=1)
    low, high = low.masked_fill(nowhere, 0.0), high.masked_fill(nowhere, 1.0)
    return low.clamp_min(0.0).view(-1, 1, 1, 1), high.clamp_max(1.0).view(-1, 1, 1, 1)


def relight_colours(colours: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """Printed colours as they look in the light on each sign: 0 as black ink there, 1 as white paper.

    Args:
        colours: (N, C, h, w) in [0, 1].
        images: The signs, (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.

    Returns:
        The shape of ``block_colours``; differentiable by them.
    """
    low, high = find_light_range(images, surfaces)
    return low + (high - low) * colours


def remove_lighting(seen: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """The inverse of :func:`relight_colours`: colours as a printer would need them, in [0, 1]; arguments alike."""
    low, high = find_light_range(images, surfaces)
    return ((seen - low) / (high - low).clamp_min(1e-3)).clamp(0.0, 1.0)
