"""What every arm is given: the same network, images and hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """One run of one method.

    Args:
        module: Images in [0, 1], (N, C, H, W), to logits; parameters require gradients, as a user's would.
        reader: The same network, for looks that are not part of a method and are not counted.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        num_classes: K.
        eps: Radius of the ball.
        steps: Steps, or queries for a black-box method.
        seed: Of everything that is drawn.
    """

    module: nn.Module
    verdict_network: nn.Module
    images: Tensor
    labels: Tensor
    num_classes: int
    eps: float
    steps: int
    seed: int

    @property
    def step_size(self) -> float:
        """Two and a half radii over all steps, for every library's PGD."""
        return 2.5 * self.eps / self.steps


AttackFunction = Callable[[BenchmarkJob], Tensor]
"""A method of a library: candidates, shaped like the images."""
