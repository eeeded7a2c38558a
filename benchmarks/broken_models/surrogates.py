"""Differentiable stand-ins for each broken kind, made by hand with the model's code in view."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.broken_models.composed_kinds import build_members
from benchmarks.broken_models.input_kinds import FunctionLayer
from benchmarks.broken_models.networks import BaseNetwork
from benchmarks.broken_models.sound_kinds import MeanLogits
from benchmarks.broken_models.surgery import PreprocessedNetwork, StandardizedUnits
from robustbench_local.bpda import apply_straight_through

_SMOOTH_STEEPNESS = 2.0
"""Slope at zero of the tanh in the backward pass of saturated activations, per standard deviation."""


class IdentityBackward(nn.Module):
    """A layer with the gradient of the identity."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: Tensor) -> Tensor:
        return apply_straight_through(self.layer, values)


class SmoothBackward(nn.Module):
    """A saturated activation with the gradient of a gentle one."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        smooth = torch.tanh(_SMOOTH_STEEPNESS * features)
        return smooth + (self.activation(features) - smooth).detach()


class SqueezedToo(nn.Module):
    """The network on an image and on its squeezed version: what the detector compares."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        squeezed = apply_straight_through(lambda values: (values * 15).round() / 15, images)
        return self.network(images) + self.network(squeezed)


def list_surrogates(base: BaseNetwork, model: nn.Module) -> list[nn.Module]:
    """Stand-ins for a model, the most promising first.

    Args:
        base: The network that it was built on.
        model: The model; left as it is.
    """
    surrogates: list[nn.Module] = [base.build()]
    if hasattr(model, "members"):
        members = build_members(base)
        surrogates = [MeanLogits(members), *members]
    if hasattr(model, "limit") and hasattr(model, "answer"):
        surrogates = [SqueezedToo(base.build()), *surrogates]
    if isinstance(model, PreprocessedNetwork):
        surrogates = [PreprocessedNetwork(IdentityBackward(model.preprocess), model.network), *surrogates]
    replaced = _replace_layers(base, model)
    return surrogates if replaced is None else [replaced, *surrogates]


def _replace_layers(base: BaseNetwork, model: nn.Module) -> nn.Module | None:
    """The same model with a useful gradient in the layer that was put into it; None if there is none."""
    twin, found = copy.deepcopy(model), False
    for layer in list(twin.modules()):
        if isinstance(layer, StandardizedUnits):
            layer.activation, found = SmoothBackward(layer.activation), True
    stem = dict(twin.named_modules()).get(base.stem) if base.stem else None
    if isinstance(stem, nn.Sequential) and len(stem) == 2 and isinstance(stem[1], FunctionLayer):
        stem[1], found = IdentityBackward(stem[1]), True
    return twin if found else None
