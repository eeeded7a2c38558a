"""What an attack of another library is given: a network, images and hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class PeerJob:
    """One run of one attack.

    Args:
        module: Images in [0, 1], (N, C, H, W), to logits; parameters require gradients, as a user's would.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        num_classes: K.
        eps: Radius of the ball; the largest distance for a minimum-norm attack.
        steps: Steps, or queries for a black-box attack.
        seed: Of everything that is drawn.
    """

    module: nn.Module
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


PeerFunction = Callable[[Any], Tensor]
"""An attack of a library: a ``PeerJob`` to candidates, shaped like the images."""


class PeerAttack(NamedTuple):
    """A minimum-norm attack of a library."""

    run: PeerFunction
    """The attack."""
    calls_per_step: int = 2
    """Forward and backward passes of one step, all together, by which a budget is converted to steps."""
