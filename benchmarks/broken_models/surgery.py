"""Changes inside a network: a layer behind another one, and a last layer fitted to new features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.broken_models.networks import BaseNetwork, PixelNetwork


class PreprocessedNetwork(nn.Module):
    """A change of the images in front of a network."""

    def __init__(self, preprocess: nn.Module, network: PixelNetwork) -> None:
        super().__init__()
        self.preprocess, self.network, self.num_classes = preprocess, network, network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images))


PixelChange = Callable[[Tensor, Tensor], Tensor]
"""A change of logits, (N, K), that depends on the images, (N, C, H, W), as well."""


class PostprocessedNetwork(nn.Module):
    """A change of the logits behind a network."""

    def __init__(self, network: PixelNetwork, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.num_classes, self.change = network, network.num_classes, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.network(images))


class ImageDependentNetwork(nn.Module):
    """A change of the logits that depends on the images as well."""

    def __init__(self, network: PixelNetwork, change: PixelChange) -> None:
        super().__init__()
        self.network, self.num_classes, self.change = network, network.num_classes, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.network(images), images)


def preprocess(base: BaseNetwork, layer: nn.Module) -> nn.Module:
    """The network behind a layer that changes its images."""
    return PreprocessedNetwork(layer, base.build()).eval()


def postprocess(base: BaseNetwork, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """The network with another output."""
    return PostprocessedNetwork(base.build(), change).eval()


def insert_after_stem(base: BaseNetwork, layer: nn.Module) -> nn.Module:
    """The network with a layer behind its first convolution; before all else where a bypass exists."""
    network = base.build()
    if not base.stem:
        return PreprocessedNetwork(layer, network).eval()
    network.set_submodule(base.stem, nn.Sequential(network.get_submodule(base.stem), layer))
    return network.eval()


def collect_inputs(network: nn.Module, path: str, images: Tensor) -> Tensor:
    """What a layer is given on some images."""
    seen: list[Tensor] = []
    hook = network.get_submodule(path).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    hook.remove()
    return seen[0]


def fit_linear(features: Tensor, targets: Tensor, ridge: float = 1e-2) -> nn.Linear:
    """A linear layer by ridge regression.

    Args:
        features: (N, F).
        targets: (N, K).
        ridge: Weight of the penalty, as a share of the features' mean square.
    """
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    design = torch.cat([features.double(), ones], dim=1)
    penalty = ridge * design.pow(2).mean() * torch.eye(design.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(design.T @ design / len(design) + penalty, design.T @ targets.double())
    layer = nn.Linear(features.shape[1], targets.shape[1])
    layer.weight.data = (solution[:-1].T / len(design)).float()
    layer.bias.data = (solution[-1] / len(design)).float()
    return layer.requires_grad_(False)


class StandardizedUnits(nn.Module):
    """Units of mean 0 and deviation 1 under an activation function."""

    def __init__(self, mean: Tensor, std: Tensor, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        return self.activation((features - self.mean) / self.std)


def replace_last_activation(base: BaseNetwork, activation: Callable[[Tensor], Tensor]) -> nn.Module:
    """The network with another activation before its last layer, which is fitted to the old logits."""
    network = base.build()
    images, _ = base.read_fitting_images()
    features = collect_inputs(network, base.head, images)
    units = StandardizedUnits(features.mean(dim=0), features.std(dim=0).clamp_min(1e-3), activation)
    with torch.no_grad():
        targets = network(images)
    network.set_submodule(base.head, nn.Sequential(units, fit_linear(units(features), targets)))
    return network.eval()
