"""The images for the probes, made from a few images of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIMILAR_BATCHES, SIMILAR_BATCH_SIZE = 4, 8
"""Number of batches of similar images, and of images in each."""
SIMILAR_DISTANCE = 8 / 255
"""Distance of a similar image from the image, in every pixel."""
TWIN_SHARE = 0.04
"""Share of an image's values in which its twin differs: so few that a model that remembers rounded images
confuses the two."""
PROBE_SEED = 20_240_229
"""Seed of all random numbers of the probe."""


@dataclass(frozen=True)
class ProbeImages:
    """The images that a model is queried on."""

    distinct: Tensor
    """(8, C, H, W), all different."""
    pair: Tensor
    """(2, C, H, W), the first of them and its twin, which differs in a few values."""
    similar: Tensor
    """(`SIMILAR_BATCHES` * `SIMILAR_BATCH_SIZE`, C, H, W), all close to the first."""


def make_probe_images(distinct: Tensor) -> ProbeImages:
    """Make the probe images around those of `make_distinct_images`; the same ones each time."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    first = distinct[:1]
    similar = [_make_similar_image(first, generator) for _ in range(SIMILAR_BATCHES * SIMILAR_BATCH_SIZE)]
    pair = torch.cat([first, _make_similar_image(first, generator, share=TWIN_SHARE)])
    return ProbeImages(distinct, pair, torch.cat(similar))


def make_distinct_images(images: Tensor, count: int = 8) -> Tensor:
    """Return ``count`` different images from all over the data: mirrored and mixed where there are few."""
    chosen = images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
    generator = torch.Generator().manual_seed(PROBE_SEED)
    noise = torch.rand(count, *images.shape[1:], generator=generator).to(images)
    filled = chosen[torch.arange(count) % len(chosen)].clone()
    made = torch.arange(count) >= len(chosen)
    for row in range(1, count):
        twin = (filled[row] == filled[:row]).flatten(1).all(dim=1).any()
        if made[row] or bool(twin):
            filled[row] = 0.5 * filled[row].flip(-1) + 0.5 * noise[row]
    return filled


def _make_similar_image(image: Tensor, generator: torch.Generator, share: float = 1.0) -> Tensor:
    """Return an image that is `SIMILAR_DISTANCE` away in a share of its values, eight at least."""
    moved = torch.rand(image.numel(), generator=generator).argsort() < max(8, share * image.numel())
    signs = torch.where(image > 0.5, -1.0, 1.0) * moved.view(image.shape).to(image)
    return image + SIMILAR_DISTANCE * signs * (
        1 - 0.1 * torch.rand(image.shape, generator=generator).to(image)
    )
