"""TI-FGSM: the gradient is smoothed, which approximates the average over shifted copies of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.transfer.di_fgsm import DIFGSM
from robustbench_local.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TIFGSM(DIFGSM):
    """Translation-invariant gradients with momentum; with ``probability: 0.5`` this is the paper's TI-DIM.

    Args:
        kernel_size: Side of the Gaussian kernel in pixels, odd; 1 means no smoothing. Its standard deviation
            is a third of its radius. The paper uses 15 for images of 299 pixels.

    Source: Dong et al. 2019, arXiv:1904.02884, section 3.2.
    """

    probability: float = 0.0
    kernel_size: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            name = type(self).__name__
            raise ConfigError(f"{name}'s kernel_size must be odd and at least 1, got {self.kernel_size}")

    def _compute_gradient(
        self, inputs: AttackInputs, points: Tensor, draw_name: str
    ) -> tuple[Tensor, Tensor]:
        """Compute the smoothed gradient."""
        gradient, values = super()._compute_gradient(inputs, points, draw_name)
        return smooth_gradient(gradient, self.kernel_size), values


def smooth_gradient(gradient: Tensor, kernel_size: int) -> Tensor:
    """Convolve each channel with a Gaussian kernel of standard deviation radius / 3.

    Args:
        gradient: (N, C, H, W).
        kernel_size: Side of the kernel in pixels, odd.

    Returns:
        Same shape; beyond the border the gradient counts as zero.
    """
    if kernel_size == 1:
        return gradient
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=gradient.device, dtype=gradient.dtype)
    bell = torch.exp(-0.5 * (3 * offsets / radius) ** 2)
    bell = bell / bell.sum()
    planes = gradient.flatten(0, 1)[:, None]
    down = F.conv2d(planes, bell.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(down, bell.view(1, 1, 1, -1), padding=(0, radius)).view_as(gradient)
