"""A wrapper defense: pixel values are rounded to a few levels before the model sees them."""

from dataclasses import dataclass

import torch

import robustbench_local as rbl


class _RoundStraightThrough(torch.autograd.Function):
    """Rounds forward; backward, the gradient passes as if nothing had been rounded (BPDA)."""

    @staticmethod
    def forward(context, images, levels):
        return (images * (levels - 1)).round() / (levels - 1)

    @staticmethod
    def backward(context, gradient):
        return gradient, None


@dataclass(frozen=True, kw_only=True)
class Rounding(rbl.FixedWrapper):
    """Rounds every pixel to one of a few levels.

    Args:
        levels: How many levels there are between 0 and 1.
    """

    gradient_mode = "bpda"

    levels: int = 8

    def transform_images(self, images):
        """The rounded images."""
        return _RoundStraightThrough.apply(images, self.levels)
