"""The sound networks underneath, with their images: published checkpoints, and the shipped zoo."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import robustbench_local as rbl

_PERMUTATION_SEED = 20
"""Decides the order in which the images of a class-by-class file are taken."""
FITTING_IMAGES = 500
"""Photographs that layers are fitted on; no case is evaluated on them."""
RENDERED_FITTING_IMAGES = 258
"""The same of rendered signs: six of each class."""


def find_shared_folder() -> Path | None:
    """The folder of published checkpoints and photographs: ``RBL_SHARED_DATA``, or beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RBL_SHARED_DATA", beside))
    return folder if folder.is_dir() else None


class PixelNetwork(nn.Module):
    """Pixels to logits: the normalization, then the network."""

    def __init__(
        self, network: nn.Module, num_classes: int, normalization: tuple[tuple[float, ...], ...] | None
    ) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes
        mean, std = normalization or ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


@dataclass(frozen=True, kw_only=True)
class BaseNetwork:
    """A sound network with its images.

    Args:
        name: What it is called in names of cases.
        load: Loads it.
        read_images: Images to evaluate, (N, C, H, W), with labels; at least 100.
        read_fitting_images: Other images, for layers that are fitted.
        threat: Radius at which robust accuracy lies clearly below clean accuracy.
        stem: Path of the first convolution, a bottleneck for every gradient; empty if there is none.
        head: Path of the last linear layer.
        images: How many images the study takes.
        needs_shared: Whether it needs the folder of published checkpoints.
    """

    name: str
    load: Callable[[], rbl.Classifier]
    read_images: Callable[[], tuple[Tensor, Tensor]]
    read_fitting_images: Callable[[], tuple[Tensor, Tensor]]
    threat: str
    stem: str
    head: str
    images: int
    needs_shared: bool = True

    def build(self) -> PixelNetwork:
        """A fresh copy in evaluation mode, without gradients of its parameters."""
        classifier = self.load()
        assert classifier.module is not None
        network = PixelNetwork(classifier.module, classifier.num_classes, classifier.normalization)
        return network.eval().requires_grad_(False)

    def data(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n images and labels."""
        images, labels = self.read_images()
        return images[:n].clone(), labels[:n].clone()


@cache
def _read_shared(file: str) -> tuple[Tensor, Tensor]:
    """All images of a file in a fixed order that mixes the classes."""
    folder = find_shared_folder()
    assert folder is not None
    with np.load(folder / file, allow_pickle=False) as arrays:
        pixels, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_PERMUTATION_SEED))
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return pixels[order].contiguous().float() / 255, labels[order]


def _read_first(file: str) -> tuple[Tensor, Tensor]:
    images, labels = _read_shared(file)
    return images[:-FITTING_IMAGES], labels[:-FITTING_IMAGES]


def _read_last(file: str) -> tuple[Tensor, Tensor]:
    images, labels = _read_shared(file)
    return images[-FITTING_IMAGES:], labels[-FITTING_IMAGES:]


@cache
def _read_signs(split: str, limit: int) -> tuple[Tensor, Tensor]:
    data = rbl.load_dataset("signs", split=split, limit=limit)
    return data.images, data.labels


def _load_checkpoint(file: str, architecture: str) -> rbl.Classifier:
    folder = find_shared_folder()
    assert folder is not None
    return rbl.load_classifier(f"checkpoint:{folder / 'checkpoints' / file}", architecture=architecture)


def _make_published(
    name: str, file: str, architecture: str, images: str, threat: str, stem: str, head: str, n: int
) -> BaseNetwork:
    return BaseNetwork(
        name=name,
        load=partial(_load_checkpoint, file, architecture),
        read_images=partial(_read_first, images),
        read_fitting_images=partial(_read_last, images),
        threat=threat,
        stem=stem,
        head=head,
        images=n,
    )


def _make_shipped(name: str, zoo: str, threat: str, n: int) -> BaseNetwork:
    return BaseNetwork(
        name=name,
        load=partial(rbl.load_classifier, f"zoo:{zoo}"),
        read_images=partial(_read_signs, "test", 120),
        read_fitting_images=partial(_read_signs, "train", RENDERED_FITTING_IMAGES),
        threat=threat,
        stem="network.stem",
        head="network.head",
        images=n,
        needs_shared=False,
    )


_MNIST, _CIFAR, _GTSRB = (
    "mnist_test_first1000.npz",
    "cifar10_test_strat1000.npz",
    "gtsrb_test_strat1000.npz",
)

NETWORKS = {
    network.name: network
    for network in (
        _make_published(
            "cifar10",
            "cifar10_resnet2b_vnncomp21.safetensors",
            "cifar10_resnet2b",
            _CIFAR,
            "linf-4",
            "network.conv1",
            "network.linear2",
            32,
        ),
        _make_published(
            "mnist",
            "mnist_fast_fgsm_wong2020.safetensors",
            "mnist_fast",
            _MNIST,
            "linf-81",
            "network.0",
            "network.7",
            32,
        ),
        _make_published(
            "mnist-trades",
            "mnist_trades_smallcnn.safetensors",
            "mnist_smallcnn",
            _MNIST,
            "linf-87",
            "network.feature_extractor.conv1",
            "network.classifier.fc3",
            16,
        ),
        _make_published(
            "mnist-convex",
            "mnist_convex_eps0.1.safetensors",
            "mnist_fast",
            _MNIST,
            "linf-45",
            "network.0",
            "network.7",
            32,
        ),
        _make_published(
            "gtsrb",
            "gtsrb_stn_poojahira.safetensors",
            "gtsrb_stn",
            _GTSRB,
            "linf-4",
            "",
            "network.fc2",
            12,
        ),
        _make_shipped("signs", "signs-plain", "linf-3", 24),
        _make_shipped("signs-at", "signs-pgd-at", "linf-8", 24),
        _make_shipped("signs-trades", "signs-trades", "linf-8", 24),
        _make_shipped("signs-ibp", "signs-ibp", "linf-4", 24),
        _make_shipped("signs-gaussian", "signs-gaussian-0.25", "linf-8", 24),
        _make_shipped("signs-distilled", "signs-distilled-t100", "linf-3", 24),
    )
}
"""The networks by name."""


def list_available() -> tuple[str, ...]:
    """Names of the networks that can be built here."""
    has_shared = find_shared_folder() is not None
    return tuple(name for name, network in NETWORKS.items() if has_shared or not network.needs_shared)
