"""Mistakes around a sound network: pixels in another form than it was trained on, labels in another order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.input_kinds import FunctionLayer
from benchmarks.broken_models.networks import BaseNetwork, PixelNetwork
from benchmarks.broken_models.surgery import postprocess, preprocess


def reverse_channels(images: Tensor) -> Tensor:
    """Blue, green, red."""
    return images.flip(1)


def swap_sides(images: Tensor) -> Tensor:
    """Rows as columns."""
    return images.transpose(2, 3)


def invert_pixels(images: Tensor) -> Tensor:
    """Black is white."""
    return 1 - images


def shift_classes(logits: Tensor) -> Tensor:
    """Labels that start at one where the network's start at zero."""
    return logits.roll(1, dims=1)


def store_as_bytes(images: Tensor) -> Tensor:
    """Through 8-bit integers, which have no gradient."""
    return (images * 255).round().to(torch.uint8).to(images.dtype) / 255


def keep_8_bits(images: Tensor) -> Tensor:
    """Rounded to multiples of 1/255."""
    return (images * 255).round() / 255


def map_to_palette(images: Tensor) -> Tensor:
    """The nearest of 27 colours, or of 3 greys: an index into a table."""
    steps = torch.tensor([0.1, 0.5, 0.9], dtype=images.dtype, device=images.device)
    return steps[(images.unsqueeze(-1) - steps).abs().argmin(dim=-1)]


def convert_to_grey_bytes(images: Tensor) -> Tensor:
    """Grey in 8 bits, as an image library gives it."""
    grey = images.mean(dim=1, keepdim=True)
    return ((grey * 255).floor() / 255).expand_as(images)


class HalfPrecision(nn.Module):
    """The network in a type of 16 bits."""

    def __init__(self, network: PixelNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.num_classes, self.dtype = network.to(dtype), network.num_classes, dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype)).float()


class RangeClip(nn.Module):
    """Each pixel is clipped to what the fitting images show there, and rounded to one of their levels."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", images.flatten(1).quantile(torch.linspace(0, 1, 12), dim=0))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        nearest = (flat[:, None] - self.levels[None]).abs().argmin(dim=1)
        return self.levels.gather(0, nearest).view_as(images)


def _format_kind(
    name: str,
    build: Callable[[BaseNetwork], nn.Module],
    networks: tuple[str, ...],
    expected: str,
    clean_floor: float = 0.0,
) -> ModelKind:
    return ModelKind(name=name, build=build, networks=networks, expected=expected, clean_floor=clean_floor)


def _layer_kind(
    name: str, function: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return _format_kind(name, lambda base: preprocess(base, FunctionLayer(function)), networks, expected)


FORMAT_KINDS = (
    _layer_kind(
        "channels reversed",
        reverse_channels,
        ("cifar10", "gtsrb", "signs"),
        "D19: better on reversed channels",
    ),
    _layer_kind("rows as columns", swap_sides, ("mnist", "signs", "gtsrb"), "D19: better on turned images"),
    _layer_kind("pixels inverted", invert_pixels, ("mnist", "signs"), "D19: better on inverted images"),
    _format_kind(
        "labels shifted",
        lambda base: postprocess(base, shift_classes),
        ("mnist", "signs"),
        "D22: worse than chance",
    ),
    _layer_kind("stored as bytes", store_as_bytes, ("cifar10", "signs-at"), "D6a no graph; BPDA"),
    _layer_kind("rounded to 8 bits", keep_8_bits, ("signs", "mnist"), "D6b zero gradients; BPDA"),
    _layer_kind("palette", map_to_palette, ("signs", "cifar10"), "D6a no graph; BPDA"),
    _layer_kind("grey bytes", convert_to_grey_bytes, ("signs", "signs-at"), "D6b zero gradients; BPDA"),
    _format_kind(
        "bfloat16",
        lambda base: HalfPrecision(base.build(), torch.bfloat16).eval(),
        ("cifar10", "signs"),
        "D7 or the attack alone: rounding of logits",
    ),
    _format_kind(
        "clipped to known pixels",
        lambda base: preprocess(base, RangeClip(base.read_fitting_images()[0])),
        ("cifar10", "signs"),
        "D6a no graph; BPDA",
    ),
)
"""Kinds that feed or read a sound network in the wrong way."""
