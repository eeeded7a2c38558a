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
class BenchmarkModel:
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
    memory_format: torch.memory_format = torch.contiguous_format
    """The order in memory that the network comes with."""
    trainable_network: _PixelNetwork = field(init=False)
    """For the peers: a copy as a user hands over a network, parameters requiring gradients, weights in the
    order in which torch makes them."""
    frozen_network: _PixelNetwork = field(init=False)
    """For the bare passes: a copy whose parameters require none, in the order of the network under attack."""

    def __post_init__(self) -> None:
        whole = _PixelNetwork(self.classifier).to(self.images.device)
        self.trainable_network = (
            copy.deepcopy(whole).to(memory_format=self.memory_format).eval().requires_grad_(True)
        )
        with self.classifier.evaluation_mode():
            self.classifier(self.images[:2])  # the very first look also examines the network
            self.frozen_network = copy.deepcopy(whole).eval().requires_grad_(False)

    def to(self, device: str) -> BenchmarkModel:
        """The same on another device."""
        self.classifier.to(device)
        images, labels = self.images.to(device), self.labels.to(device)
        return replace(self, images=images, labels=labels)


class _PixelNetwork(nn.Module):
    """Pixels to logits with nothing but the network's own arithmetic."""

    def __init__(self, classifier: rbl.Classifier) -> None:
        super().__init__()
        assert classifier.module is not None
        self.network = classifier.module
        normalization = classifier.normalization  # the peers get it as a layer
        self.has_normalization = normalization is not None
        mean, std = normalization or ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std if self.has_normalization else images)


def _load_signs_model(name: str, radii: tuple[float, float, float], n: int) -> BenchmarkModel:
    data = rbl.load_dataset("signs", limit=n)
    return BenchmarkModel(
        name=name,
        classifier=rbl.load_classifier(f"zoo:{name}"),
        images=data.images,
        labels=data.labels,
        radii=dict(zip(LEVELS, radii, strict=True)),
        memory_format=torch.channels_last,
    )


def _load_published_model(
    name: str,
    radii: tuple[float, float, float],
    n: int,
    folder: Path,
    file: str,
    architecture: str,
    images: str,
) -> BenchmarkModel:
    with np.load(folder / images) as arrays:
        pixels = torch.from_numpy(arrays["x"][:n]).float() / 255
        labels = torch.from_numpy(arrays["y"][:n]).long()
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return BenchmarkModel(
        name=name,
        classifier=rbl.load_classifier(
            f"checkpoint:{folder / 'checkpoints' / file}", architecture=architecture
        ),
        images=pixels,
        labels=labels,
        radii=dict(zip(LEVELS, radii, strict=True)),
    )


def _build_resnet18(n: int) -> BenchmarkModel:
    """Random weights: for the kernels and the memory, not for verdicts."""
    torch.manual_seed(0)
    network = resnet18(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    pixels = torch.rand(n, 3, 32, 32)
    classifier = rbl.Classifier(network.eval(), num_classes=10, channels=3)
    return BenchmarkModel(
        name="resnet18-random",
        classifier=classifier,
        images=pixels,
        labels=classifier(pixels).argmax(dim=1),
        radii=dict.fromkeys(LEVELS, 8 / 255),
    )


_MNIST_FILE, _CIFAR_FILE = "mnist_test_first1000.npz", "cifar10_test_strat1000.npz"

_SHIPPED_MODELS: dict[str, Callable[[int], BenchmarkModel]] = {
    "signs-pgd-at": lambda n: _load_signs_model("signs-pgd-at", (6 / 255, 10 / 255, 32 / 255), n),
    "signs-plain": lambda n: _load_signs_model("signs-plain", (1.85 / 255, 3 / 255, 8 / 255), n),
    "resnet18-random": _build_resnet18,
}
_CHECKPOINT_MODELS: dict[str, Callable[[int, Path], BenchmarkModel]] = {
    "mnist-fast": lambda n, folder: _load_published_model(
        "mnist-fast",
        (0.309, 0.318, 0.4),
        n,
        folder,
        "mnist_fast_fgsm_wong2020.safetensors",
        "mnist_fast",
        _MNIST_FILE,
    ),
    "mnist-trades": lambda n, folder: _load_published_model(
        "mnist-trades",
        (0.325, 0.338, 0.45),
        n,
        folder,
        "mnist_trades_smallcnn.safetensors",
        "mnist_smallcnn",
        _MNIST_FILE,
    ),
    "cifar10-resnet2b": lambda n, folder: _load_published_model(
        "cifar10-resnet2b",
        (0.5 / 255, 4 / 255, 24 / 255),
        n,
        folder,
        "cifar10_resnet2b_vnncomp21.safetensors",
        "cifar10_resnet2b",
        _CIFAR_FILE,
    ),
}

IMAGE_FACTOR_BY_MODEL = {"mnist-fast": 2, "cifar10-resnet2b": 2}
"""So many times the images of a row are taken where a pass costs little."""

MODEL_NAMES = (*_SHIPPED_MODELS, *_CHECKPOINT_MODELS)
"""Names of all subjects; those after ``resnet18-random`` need a folder of checkpoints."""


def load_model(name: str, image_count: int, checkpoint_folder: Path | None) -> BenchmarkModel | None:
    """A subject by its name.

    Args:
        name: One of ``MODEL_NAMES``.
        image_count: How many images.
        checkpoint_folder: Folder of images and checkpoints; None: a subject that needs it is absent.
    """
    if name in _SHIPPED_MODELS:
        return _SHIPPED_MODELS[name](image_count)
    return None if checkpoint_folder is None else _CHECKPOINT_MODELS[name](image_count, checkpoint_folder)
