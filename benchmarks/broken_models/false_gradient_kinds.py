"""Backward passes that lie: parts left out, signs turned, places moved, another network's gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.input_kinds import FunctionLayer
from benchmarks.broken_models.networks import NETWORKS, BaseNetwork, PixelNetwork
from benchmarks.broken_models.surgery import insert_after_stem, preprocess
from robustbench_local.bpda import apply_straight_through

OTHERS = {"mnist": "mnist-convex", "signs": "signs-ibp", "signs-at": "signs-ibp"}
"""The network that lends its gradient."""
_SHIFT = (3, 5)


class HalfGradient(Function):
    """The identity, without the gradient of the left half."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_context: Any, slopes: Tensor) -> Tensor:
        kept = slopes.clone()
        kept[..., : slopes.shape[-1] // 2] = 0
        return kept


class MovedGradient(Function):
    """The identity, with the gradient of pixels elsewhere."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_context: Any, slopes: Tensor) -> Tensor:
        return slopes.roll(_SHIFT, dims=(-2, -1))


class TurnedGradient(Function):
    """The identity, with the opposite gradient in every second channel."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_context: Any, slopes: Tensor) -> Tensor:
        signs = torch.ones(slopes.shape[1], device=slopes.device)
        signs[::2] = -1
        return slopes * signs.view(1, -1, 1, 1)


class HookedNetwork(nn.Module):
    """A hook at the pixels that adds a constant, much larger than any gradient."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            images = images * 1.0
            images.register_hook(lambda slopes: slopes + 50 * slopes.abs().amax())
        return self.network(images)


class BorrowedGradient(nn.Module):
    """The answers of one network with the gradient of another."""

    def __init__(self, network: PixelNetwork, other: PixelNetwork) -> None:
        super().__init__()
        self.network, self.other, self.num_classes = network, other, network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        lent = self.other(images)
        return self.network(images).detach() + lent - lent.detach()


def round_as_declared(images: Tensor) -> Tensor:
    """32 levels, with the identity declared as their surrogate."""
    return apply_straight_through(lambda values: (values * 32).round() / 32, images)


def _declare_before_turned(base: BaseNetwork) -> nn.Module:
    network = insert_after_stem(base, FunctionLayer(TurnedGradient.apply))
    return _RoundedNetwork(network).eval()


class _RoundedNetwork(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.network(round_as_declared(images))


def _kind(
    name: str, build: Callable[[BaseNetwork], nn.Module], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(name=name, build=build, networks=networks, expected=expected, images=16)


FALSE_GRADIENT_KINDS = (
    _kind(
        "gradient of one half",
        lambda base: preprocess(base, FunctionLayer(HalfGradient.apply)),
        ("mnist", "signs"),
        "D7; BPDA",
    ),
    _kind(
        "gradient moved",
        lambda base: preprocess(base, FunctionLayer(MovedGradient.apply)),
        ("mnist", "signs"),
        "D7; BPDA",
    ),
    _kind(
        "signs turned behind the stem",
        lambda base: insert_after_stem(base, FunctionLayer(TurnedGradient.apply)),
        ("cifar10", "signs"),
        "D7; BPDA",
    ),
    _kind(
        "turned behind a declared surrogate",
        _declare_before_turned,
        ("cifar10", "signs"),
        "D7 or D30, although a surrogate is declared; BPDA",
    ),
    _kind(
        "hook that adds a constant",
        lambda base: HookedNetwork(base.build()).eval(),
        ("cifar10", "signs"),
        "D7; network underneath",
    ),
    _kind(
        "gradient of another network",
        lambda base: BorrowedGradient(base.build(), NETWORKS[OTHERS[base.name]].build()).eval(),
        ("mnist", "signs"),
        "D7; network underneath",
    ),
)
"""Kinds whose backward pass is not that of their forward pass."""
