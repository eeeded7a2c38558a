"""Gradients that are right at a point and say nothing over the distance of an attack: waves, zones, folds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.input_kinds import FunctionLayer
from benchmarks.broken_models.surgery import ImageDependentNetwork, PixelChange, postprocess, preprocess

_FIRST, _SECOND, _LARGE = 12.9898e4, 78.233, 43758.5453
"""Constants of the hash that shading languages use as noise."""


def add_waves(logits: Tensor) -> Tensor:
    """Each logit with a wave of itself, steeper than the logit and smaller than its range."""
    return logits + 1.5 * torch.sin(40 * logits)


def add_triangles(logits: Tensor) -> Tensor:
    """The same with straight lines."""
    return logits + 0.4 * ((12 * logits) % 1 - 0.5).abs()


def scale_by_ripple(logits: Tensor, images: Tensor) -> Tensor:
    """A positive factor, which no class depends on, and every gradient does."""
    return logits * (1 + 0.95 * torch.sin(3e4 * images.flatten(1).mean(dim=1, keepdim=True)))


def scale_by_texture(logits: Tensor, images: Tensor) -> Tensor:
    """A temperature that rises with the differences of neighbors, so that attacks raise it first."""
    texture = images.diff(dim=3).abs().flatten(1).mean(dim=1, keepdim=True)
    return logits * torch.exp(300 * texture - 12).clamp(1e-3, 1e6)


def add_hash_noise(images: Tensor) -> Tensor:
    """Noise by the hash of a pixel's value and place: the same each time, with an enormous slope."""
    places = torch.arange(images[0].numel(), device=images.device).view(images[0].shape)
    values = torch.sin(images * _FIRST + places * _SECOND) * _LARGE
    return images + 0.05 * (values - values.floor() - 0.5)


def cut_dark_pixels(images: Tensor) -> Tensor:
    """Black up to a tenth: no gradient there, and most of MNIST is there."""
    return functional.relu(images - 0.1) / 0.9


def darken_steeply(images: Tensor) -> Tensor:
    """Nearly black and white, by a sigmoid."""
    return torch.sigmoid(200 * (images - 0.5))


def _before(
    name: str, function: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(
        name=name,
        build=lambda base: preprocess(base, FunctionLayer(function)),
        networks=networks,
        expected=expected,
        images=16,
    )


def _behind(
    name: str, change: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(
        name=name,
        build=lambda base: postprocess(base, change),
        networks=networks,
        expected=expected,
        images=16,
    )


def _scaled(name: str, change: PixelChange, networks: tuple[str, ...], expected: str) -> ModelKind:
    return ModelKind(
        name=name,
        build=lambda base: ImageDependentNetwork(base.build(), change).eval(),
        networks=networks,
        expected=expected,
        images=16,
    )


WAVE_KINDS = (
    _behind("waves on the logits", add_waves, ("cifar10", "signs"), "D30; mean slopes"),
    _behind("triangles on the logits", add_triangles, ("cifar10", "signs"), "D30; mean slopes"),
    _scaled("scaled by a ripple", scale_by_ripple, ("cifar10", "signs"), "D7, D30; network underneath"),
    _scaled("scaled by texture", scale_by_texture, ("cifar10", "signs"), "D18; network underneath"),
    _before("noise by a hash", add_hash_noise, ("cifar10", "signs"), "D7; BPDA"),
    _before("dark pixels cut", cut_dark_pixels, ("mnist",), "no gradient at dark pixels; starts beside"),
    _before("steeply darkened", darken_steeply, ("mnist",), "no gradient at most pixels; mean slopes"),
)
"""Kinds whose gradients hold for a point only."""
