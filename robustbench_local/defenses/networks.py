"""Networks to train: the normalisation in front, weights from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustbench_local.models.signs_network import MEAN, STD, signs_resnet
from robustbench_local.randomness import seed_from


class NormalizedNetwork(nn.Module):
    """A network behind its normalisation: images in [0, 1] to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # Not part of the weights: whoever loads them normalises outside, see Classifier.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def new_signs_network(seed: int) -> NormalizedNetwork:
    """The signs' network, initialised from the seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(seed, "initial weights"))
        network = signs_resnet()
    return NormalizedNetwork(network.to(memory_format=torch.channels_last), MEAN, STD)
