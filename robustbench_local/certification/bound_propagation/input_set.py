"""The sets of images that bounds start from, and the minimum of a linear function over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustbench_local.certification.bound_propagation.interval import Interval


class InputRegion(Protocol):
    """A set of images around each of N images."""

    @property
    def box(self) -> Interval:
        """The smallest box around it, (N, C, H, W)."""

    def select_images(self, index: Tensor) -> InputRegion:
        """Return the sets around some of the images."""

    def compute_lower_bounds(self, rows: Tensor) -> Tensor:
        """Compute lower bounds of linear functions.

        Args:
            rows: Their coefficients, (N, M, C, H, W).

        Returns:
            (N, M), in the dtype of ``rows``.
        """


@dataclass(frozen=True)
class BoxRegion:
    """The images between two images, such as a Linf ball intersected with [0, 1]."""

    box: Interval

    def select_images(self, index: Tensor) -> BoxRegion:
        """Return the boxes of some of the images."""
        return BoxRegion(self.box.select_images(index))

    def compute_lower_bounds(self, rows: Tensor) -> Tensor:
        """Compute the exact minimum: each pixel at the end given by the sign of its coefficient."""
        centre, radius = self.box.centre.flatten(1), self.box.radius.flatten(1)
        flat = rows.flatten(2)
        return (flat @ centre[:, :, None] - flat.abs() @ radius[:, :, None]).squeeze(2)


@dataclass(frozen=True)
class L2Region:
    """An L2 ball intersected with [0, 1].

    Args:
        images: Centers, (N, C, H, W), in [0, 1].
        eps: Radius, above 0.
    """

    images: Tensor
    eps: float

    @property
    def box(self) -> Interval:
        """The box in which every pixel moves by at most the radius, inside [0, 1]."""
        lower, upper = (self.images - self.eps).clamp_min(0), (self.images + self.eps).clamp_max(1)
        return Interval.from_bounds(lower, upper)

    def select_images(self, index: Tensor) -> L2Region:
        """Return the balls around some of the images."""
        return L2Region(self.images[index], self.eps)

    def compute_lower_bounds(self, rows: Tensor) -> Tensor:
        """Compute a lower bound that is never below that of the whole ball.

        With a multiplier p on the squared length, min a d over the ball and the box is at least min over the
        box of a d + p/2 (|d|^2 - eps^2), for any p >= 0 (weak duality). That minimum separates over the
        pixels. The multiplier |a| / eps is optimal if the box is not active.
        """
        centre, flat = self.images.flatten(1)[:, None], rows.flatten(2)
        price = flat.norm(dim=2, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / self.eps
        moved = torch.maximum(torch.minimum(-flat / price, 1 - centre), -centre)
        length = moved.square().sum(dim=2) - self.eps**2
        least: Tensor = (flat * (centre + moved)).sum(dim=2) + price.squeeze(2) / 2 * length
        return least
