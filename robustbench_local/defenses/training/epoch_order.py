"""The order of the images in an epoch."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_order(labels: Tensor, *, balanced: bool, generator: torch.Generator) -> Tensor:
    """Draw the order of an epoch, in which there are as many images as in the data.

    Args:
        labels: The class of each image, (N,).
        balanced: Whether each class comes equally often, up to one image: images of rare classes are
            repeated, each as often as the others of its class up to once, and of frequent classes a random
            part is left out of this epoch. With equal classes every image comes once.
        generator: The epoch's generator, on the CPU.

    Returns:
        Positions of images, (N,), in random order.
    """
    count = len(labels)
    if not balanced:
        return torch.randperm(count, generator=generator)
    classes = sorted(set(labels.tolist()))
    quota = -(-count // len(classes))
    drawn = [_draw_class(torch.nonzero(labels == label).flatten(), quota, generator) for label in classes]
    # class by class in turn, so that what is cut off at the end is at most one image of a class
    rows = torch.stack(drawn, dim=1).flatten()[:count]
    return rows[torch.randperm(count, generator=generator)]


def _draw_class(rows: Tensor, quota: int, generator: torch.Generator) -> Tensor:
    """Draw ``quota`` of a class's images: all of them in random order, again and again."""
    rounds = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-quota // len(rows)))]
    return torch.cat(rounds)[:quota]
