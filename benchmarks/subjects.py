"""What is attacked: the shipped networks on the embedded signs, and published ones from a folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import robustbench_local as rbl

LEVELS = ("weak", "middle", "strong")
"""Radii at which about 70, 40 and 0 % of the images are robust."""


@dataclass(kw_only=True)
class Subject:
    """A network, images for it and radii.

    Args:
        name: What it is called in the tables.
        classifier: The network.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        radii: Linf, one for each of ``LEVELS``.
    """

    name: str
    classifier: rbl.Classifier
    images: Tensor
    labels: Tensor
    radii: dict[str, float]
    layout: torch.memory_format = torch.contiguous_format
    """The order in memory that the network comes with."""
    module: _Whole = field(init=False)
    """For the peers: a copy as a user hands over a network, parameters requiring gradients, weights in the
    order in which torch makes them."""
    frozen: _Whole = field(init=False)
    """For the bare passes: a copy whose parameters require none, in the order of the network under attack."""

    def __post_init__(self) -> None:
        whole = _Whole(self.classifier).to(self.images.device)
        self.module = copy.deepcopy(whole).to(memory_format=self.layout).eval().requires_grad_(True)
        with self.classifier.attacked():
            self.classifier(self.images[:2])  # the very first look also examines the network
            self.frozen = copy.deepcopy(whole).eval().requires_grad_(False)

    def to(self, device: str) -> Subject:
        """The same on another device."""
        self.classifier.to(device)
        images, labels = self.images.to(device), self.labels.to(device)
        return replace(self, images=images, labels=labels)


class _Whole(nn.Module):
    """Pixels to logits with nothing but the network's own arithmetic."""

    def __init__(self, classifier: rbl.Classifier) -> None:
        super().__init__()
        assert classifier.module is not None
        self.network = classifier.module
        normalization = classifier.normalization  # the peers get it as a layer
        self.normalized = normalization is not None
        mean, std = normalization or ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std if self.normalized else images)


def _signs(name: str, radii: tuple[float, float, float], n: int) -> Subject:
    data = rbl.load_dataset("signs", limit=n)
    return Subject(
        name=name,
        classifier=rbl.load_classifier(f"zoo:{name}"),
        images=data.images,
        labels=data.labels,
        radii=dict(zip(LEVELS, radii, strict=True)),
        layout=torch.channels_last,
    )


def _published(
    name: str,
    radii: tuple[float, float, float],
    n: int,
    folder: Path,
    file: str,
    architecture: str,
    images: str,
) -> Subject:
    with np.load(folder / images) as arrays:
        pixels = torch.from_numpy(arrays["x"][:n]).float() / 255
        labels = torch.from_numpy(arrays["y"][:n]).long()
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Subject(
        name=name,
        classifier=rbl.load_classifier(
            f"checkpoint:{folder / 'checkpoints' / file}", architecture=architecture
        ),
        images=pixels,
        labels=labels,
        radii=dict(zip(LEVELS, radii, strict=True)),
    )


def _resnet18(n: int) -> Subject:
    """Random weights: for the kernels and the memory, not for verdicts."""
    torch.manual_seed(0)
    network = resnet18(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    pixels = torch.rand(n, 3, 32, 32)
    classifier = rbl.Classifier(network.eval(), num_classes=10, channels=3)
    return Subject(
        name="resnet18-random",
        classifier=classifier,
        images=pixels,
        labels=classifier(pixels).argmax(dim=1),
        radii=dict.fromkeys(LEVELS, 8 / 255),
    )


_MNIST, _CIFAR = "mnist_test_first1000.npz", "cifar10_test_strat1000.npz"

_SHIPPED: dict[str, Callable[[int], Subject]] = {
    "signs-pgd-at": lambda n: _signs("signs-pgd-at", (6 / 255, 10 / 255, 32 / 255), n),
    "signs-plain": lambda n: _signs("signs-plain", (1.85 / 255, 3 / 255, 8 / 255), n),
    "resnet18-random": _resnet18,
}
_SHARED: dict[str, Callable[[int, Path], Subject]] = {
    "mnist-fast": lambda n, folder: _published(
        "mnist-fast",
        (0.309, 0.318, 0.4),
        n,
        folder,
        "mnist_fast_fgsm_wong2020.safetensors",
        "mnist_fast",
        _MNIST,
    ),
    "mnist-trades": lambda n, folder: _published(
        "mnist-trades",
        (0.325, 0.338, 0.45),
        n,
        folder,
        "mnist_trades_smallcnn.safetensors",
        "mnist_smallcnn",
        _MNIST,
    ),
    "cifar10-resnet2b": lambda n, folder: _published(
        "cifar10-resnet2b",
        (0.5 / 255, 4 / 255, 24 / 255),
        n,
        folder,
        "cifar10_resnet2b_vnncomp21.safetensors",
        "cifar10_resnet2b",
        _CIFAR,
    ),
}

CHEAP = {"mnist-fast": 2, "cifar10-resnet2b": 2}
"""So many times the images of a row are taken where a pass costs little."""

SUBJECTS = (*_SHIPPED, *_SHARED)
"""Names of all subjects; those after ``resnet18-random`` need a folder of checkpoints."""


def load(name: str, n: int, shared: Path | None) -> Subject | None:
    """A subject by its name.

    Args:
        name: One of ``SUBJECTS``.
        n: How many images.
        shared: Folder of images and checkpoints; None: a subject that needs it is absent.
    """
    if name in _SHIPPED:
        return _SHIPPED[name](n)
    return None if shared is None else _SHARED[name](n, shared)
