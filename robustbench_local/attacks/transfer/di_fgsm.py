"""DI-FGSM: the gradient is computed on a copy of the image that is randomly resized and padded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.transfer.mi_fgsm import MIFGSM
from robustbench_local.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DIFGSM(MIFGSM):
    """Diverse inputs with momentum: M-DI2-FGSM of the paper; ``decay: 0`` gives its DI2-FGSM.

    At every step, each image is independently resized, with the given probability, to a random smaller size
    (bilinear) and padded with zeros at a random position to its original size. The paper's canvas is larger
    than the image, 330 pixels for 299; here the image becomes smaller in the same proportion, so that
    networks of a fixed input size can be attacked.

    Args:
        probability: Probability that a step uses the resized image, in [0, 1]; at 0 this is MI-FGSM.
        resize: Smallest size, as a fraction of the side, in (0, 1].

    Source: Xie et al. 2019, arXiv:1803.06978, section 3.3 and algorithm 1.
    """

    probability: float = 0.5
    resize: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"{name}'s probability must be in [0, 1], got {self.probability}")
        if not 0 < self.resize <= 1:
            raise ConfigError(f"{name}'s resize must be above 0 and at most 1, got {self.resize}")

    def _compute_gradient(
        self, inputs: AttackInputs, points: Tensor, draw_name: str
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradient through the resizing, a linear map: matrices forwards, transposed backwards.

        The clamp only removes rounding errors and is ignored in the backward direction.
        """
        if self.probability == 0:
            return super()._compute_gradient(inputs, points, draw_name)
        down, across = self._draw_resize_matrices(inputs, draw_name)
        resized = (down @ points @ across.mT).clamp(0, 1)
        gradient, values = super()._compute_gradient(inputs, resized, draw_name)
        return down.mT @ gradient @ across, values

    def _draw_resize_matrices(self, inputs: AttackInputs, draw_name: str) -> tuple[Tensor, Tensor]:
        """Draw matrices for the columns and the rows of each image, (N, 1, H, H) and (N, 1, W, W)."""
        device = inputs.images.device
        coin, size, top, left = inputs.stream.sample_uniform(
            (4,), draw=f"{draw_name}/resize", device=device
        ).unbind(dim=1)
        matrices = []
        for place, side in ((top, inputs.images.shape[2]), (left, inputs.images.shape[3])):
            least = max(1, int(self.resize * side))
            smaller = least + _scale_to_integer(size, torch.full_like(size, max(1, side - least)))
            pixels = torch.where(coin < self.probability, smaller, float(side))
            matrices.append(
                build_resize_matrices(pixels, _scale_to_integer(place, side - pixels + 1), side)[:, None]
            )
        return matrices[0], matrices[1]


def build_resize_matrices(pixels: Tensor, start: Tensor, side: int) -> Tensor:
    """Build matrices that resize a row of ``side`` pixels bilinearly and place it, padded with zeros.

    Args:
        pixels: (N,), whole numbers: the new length, 1 to ``side``.
        start: (N,), whole numbers: start of the resized row, 0 to ``side - pixels``.
        side: Length of the row, before and after.

    Returns:
        (N, side, side); the identity where ``pixels`` is ``side``.
    """
    place = torch.arange(side, device=pixels.device, dtype=torch.float32)
    inner = place - start[:, None]
    source = ((inner + 0.5) * side / pixels[:, None] - 0.5).clamp(0, side - 1)
    weights = (1 - (source[:, :, None] - place).abs()).clamp_min(0)
    inside = (inner >= 0) & (inner < pixels[:, None])
    return weights * inside[:, :, None]


def _scale_to_integer(share: Tensor, count: Tensor) -> Tensor:
    """Map a uniform number in [0, 1) to a whole number from 0 to ``count - 1``."""
    return torch.minimum((share * count).floor(), count - 1)
