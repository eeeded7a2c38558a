"""Lighting of a sign: no sticker is brighter than white paper or darker than black ink in the same light."""

from __future__ import annotations

import torch
from torch import Tensor

_CONTRAST_MARGIN_SHARE = 0.2
"""Allowance for paper and ink beyond a sign's own brightest and darkest pixel, as a share of its contrast.
On 40 rendered stop signs of 32 pixels, perfect black is .18 (10 to 90% of signs: .11 to .35) below, perfect
white .07 (-.04 to .29) above: thin white strokes are blurred with red, and the darkest red is not black."""


def find_light_range(images: Tensor, surfaces: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of the blackest ink and the whitest paper on each sign.

    Args:
        images: (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.

    Returns:
        Two values per sign, (N, 1, 1, 1) each, inside [0, 1]: the surface's darkest and brightest pixel,
        extended by a fifth of their contrast; 0 and 1 without a surface.

    Source: after the relighting of Hingun et al. 2022, arXiv:2212.05680, section 3.
    """
    values = images.detach()
    darkest = values.masked_fill(~surfaces, torch.inf).flatten(1).amin(dim=1)
    brightest = values.masked_fill(~surfaces, -torch.inf).flatten(1).amax(dim=1)
    margin = _CONTRAST_MARGIN_SHARE * (brightest - darkest)
    low, high = darkest - margin, brightest + margin
    has_no_surface = ~surfaces.flatten(1).any(dim=1)
    low, high = low.masked_fill(has_no_surface, 0.0), high.masked_fill(has_no_surface, 1.0)
    return low.clamp_min(0.0).view(-1, 1, 1, 1), high.clamp_max(1.0).view(-1, 1, 1, 1)


def relight_colours(colours: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """Convert printed colors to their appearance in each sign's light: 0 as black ink, 1 as white paper.

    Args:
        colours: (N, C, h, w) in [0, 1].
        images: The signs, (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.

    Returns:
        The shape of ``colours``; differentiable with respect to them.
    """
    low, high = find_light_range(images, surfaces)
    return low + (high - low) * colours


def remove_lighting(lit_colours: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """Invert :func:`relight_colours`: return the colors that a printer needs, in [0, 1]."""
    low, high = find_light_range(images, surfaces)
    return ((lit_colours - low) / (high - low).clamp_min(1e-3)).clamp(0.0, 1.0)
