"""Registry of networks by name, so that a checkpoint can name its network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from robustbench_local.classifier.normalizations import NORMALIZATIONS, Normalization
from robustbench_local.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

_NETWORKS_MODULE = "robustbench_local.models.networks.small_networks:"
_initial_seed: ContextVar[int] = ContextVar("seed of initial weights", default=0)


@dataclass(frozen=True)
class Architecture:
    """A network that can be built for any number of classes.

    Args:
        factory: ``"module:attribute"``, imported on first use and called with the number of classes.
        num_classes: Number of classes of the published network.
        input_shape: (C, H, W) of its input images.
        normalize: Means and standard deviations of the published weights' training, if any.
    """

    factory: str
    num_classes: int
    input_shape: tuple[int, int, int]
    normalize: Normalization | None = None

    def build_network(self, num_classes: int | None = None) -> nn.Module:
        """Build the network in evaluation mode, with the weights of `fixed_initial_weights`."""
        module, _, attribute = self.factory.partition(":")
        with fixed_initial_weights():
            network: nn.Module = getattr(import_module(module), attribute)(num_classes or self.num_classes)
        return network.eval()


ARCHITECTURES: dict[str, Architecture] = {
    "cifar10_resnet18": Architecture(_NETWORKS_MODULE + "CifarResNet18", 10, (3, 32, 32)),
    "cifar10_resnet2b": Architecture(
        _NETWORKS_MODULE + "ResNet2b", 10, (3, 32, 32), NORMALIZATIONS["cifar10"]
    ),
    "gtsrb_stn": Architecture(
        _NETWORKS_MODULE + "SpatialTransformerCNN", 43, (3, 32, 32), NORMALIZATIONS["gtsrb"]
    ),
    "mnist_fast": Architecture(_NETWORKS_MODULE + "strided_cnn", 10, (1, 28, 28)),
    "mnist_smallcnn": Architecture(_NETWORKS_MODULE + "SmallCNN", 10, (1, 28, 28)),
    "signs_cnn": Architecture(
        "robustbench_local.models.networks.signs_cnn:signs_cnn", 43, (3, 32, 32), ((0.4,) * 3, (0.25,) * 3)
    ),
    "signs_resnet": Architecture(
        "robustbench_local.models.networks.signs_resnet:signs_resnet",
        43,
        (3, 32, 32),
        ((0.4,) * 3, (0.25,) * 3),
    ),
    "signs_resnet_wide": Architecture(
        "robustbench_local.models.networks.signs_resnet:signs_resnet_wide",
        43,
        (3, 32, 32),
        NORMALIZATIONS["gtsrb"],
    ),
}
"""The package's networks, which a checkpoint can name as its ``architecture``."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises:
        ConfigError: If there is none.
    """
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise ConfigError(f"unknown architecture {name!r}", remedy=did_you_mean(name, ARCHITECTURES))
    return architecture


def build_network(name: str, num_classes: int | None = None) -> nn.Module:
    """Build a network by name, in evaluation mode, with reproducible initial weights.

    Args:
        name: One of `ARCHITECTURES`.
        num_classes: Number of logits; by default that of the published network.

    Raises:
        ConfigError: If there is no such network.
    """
    return find_architecture(name).build_network(num_classes)


@contextmanager
def fixed_initial_weights() -> Iterator[None]:
    """Make initial weights reproducible inside the context; restore the global random state afterwards."""
    import torch  # noqa: PLC0415 - listing networks should not wait for it

    with torch.random.fork_rng(devices=[]):  # not torch.manual_seed, which would also reseed every GPU
        torch.default_generator.manual_seed(_initial_seed.get())
        yield


@contextmanager
def seeded_initial_weights(seed: int) -> Iterator[None]:
    """Use this seed instead of seed 0 for networks that are built inside the context."""
    token = _initial_seed.set(seed)
    try:
        yield
    finally:
        _initial_seed.reset(token)
