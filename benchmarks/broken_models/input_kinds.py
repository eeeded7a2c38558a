"""Changes of the images whose gradient is zero, missing or useless, in front of a sound network."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.surgery import preprocess

_JPEG_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantization steps of the luminance at quality 50 (ITU-T T.81, annex K, table K.1)."""


class FunctionLayer(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def round_to_levels(images: Tensor, levels: int = 8) -> Tensor:
    """So many grey levels a channel; the gradient of ``round`` is zero."""
    return (images * (levels - 1)).round() / (levels - 1)


def compare_with_thresholds(images: Tensor, levels: int = 4) -> Tensor:
    """The share of thresholds below a pixel: comparisons have no gradient at all."""
    thresholds = (torch.arange(levels, device=images.device) + 0.5) / levels
    return (images.unsqueeze(-1) > thresholds).float().mean(dim=-1)


class ThermometerCode(nn.Module):
    """A channel for each threshold, and a fixed convolution that reads the code.

    Source: Buckman et al. 2018, "Thermometer encoding: one hot way to resist adversarial examples".
    """

    def __init__(self, levels: int = 10) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("thresholds", (torch.arange(levels) + 0.5) / levels)

    def forward(self, images: Tensor) -> Tensor:
        code = (images.unsqueeze(2) > self.thresholds.view(1, 1, -1, 1, 1)).to(images.dtype)
        weight = torch.full((1, self.levels, 1, 1), 1 / self.levels, dtype=images.dtype)
        values = functional.conv2d(code.flatten(0, 1), weight.to(images.device))
        return values.view(images.shape)


class BlockwiseJPEG(nn.Module):
    """Cosine transform of 8x8 blocks, coefficients rounded to the steps of JPEG; no surrogate gradient.

    Source: ITU-T T.81. Each channel is treated as luminance.
    """

    def __init__(self, quality: int = 75) -> None:
        super().__init__()
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        steps = ((torch.tensor(_JPEG_LUMINANCE) * scale + 50) / 100).floor().clamp(1, 255)
        index = torch.arange(8, dtype=torch.float32)
        basis = torch.cos((2 * index.view(1, -1) + 1) * index.view(-1, 1) * math.pi / 16) / 2
        basis[0] /= math.sqrt(2)
        self.register_buffer("steps", steps / 255)
        self.register_buffer("basis", basis)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        pad = (0, -width % 8, 0, -height % 8)
        padded = functional.pad(images, pad, mode="replicate") if any(pad) else images
        blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
        spectrum = self.basis @ (blocks - 0.5) @ self.basis.T
        rounded = (spectrum / self.steps).round() * self.steps
        pixels = (self.basis.T @ rounded @ self.basis + 0.5).permute(0, 1, 2, 4, 3, 5)
        return pixels.reshape(padded.shape)[..., :height, :width].clamp(0, 1)


def filter_median_outside_torch(images: Tensor) -> Tensor:
    """3x3 median by SciPy."""
    filtered = ndimage.median_filter(images.detach().cpu().numpy(), size=(1, 1, 3, 3), mode="nearest")
    return torch.from_numpy(filtered).to(images)


def copy_through_numpy(images: Tensor) -> Tensor:
    """The same pixels, without the graph."""
    return torch.from_numpy(np.array(images.detach().cpu().numpy())).to(images)


def add_ripple(images: Tensor, frequency: float = 2000.0, amplitude: float = 0.005) -> Tensor:
    """A ripple too small to see whose slope swamps that of the image."""
    return images + amplitude * torch.sin(frequency * images)


def add_gentle_ripple(images: Tensor) -> Tensor:
    """A ripple whose slope is as large as the image's: the sum vanishes somewhere, and keeps its sign."""
    return add_ripple(images, 1000.0, 0.001)


def add_sawtooth(images: Tensor, period: float = 0.05) -> Tensor:
    """Pixels that fall nearly everywhere and jump up each period; no operator of it has a slope of zero.

    An arctangent of a tangent is the distance from the next jump.
    """
    distance = torch.atan(torch.tan(images * torch.pi / period)) * period / torch.pi
    return images - 1.5 * distance


def rank_pixels(images: Tensor) -> Tensor:
    """Ranks of the pixels of a channel, spread as the pixels are: histogram equalization."""
    flat = images.flatten(2)
    ranks = flat.argsort(dim=-1).argsort(dim=-1).to(images.dtype) / (flat.shape[-1] - 1)
    spread = flat.mean(dim=-1, keepdim=True) + 3 * (ranks - 0.5) * flat.std(dim=-1, keepdim=True)
    return spread.clamp(0, 1).view(images.shape)


def round_square_roots(images: Tensor) -> Tensor:
    """Pixels through a square root and back: slope infinity times zero at black pixels."""
    return images.sqrt().square()


def snap_to_two_levels(images: Tensor) -> Tensor:
    """Black or white."""
    return (images > 0.5).to(images.dtype)


def _make_input_kind(
    name: str, layer: Callable[[], nn.Module], networks: tuple[str, ...], expected: str, **options: float
) -> ModelKind:
    return ModelKind(
        name=name,
        build=lambda base: preprocess(base, layer()),
        networks=networks,
        expected=expected,
        clean_floor=options.get("clean_floor", 0.4),
    )


def _make_function_kind(
    name: str,
    function: Callable[[Tensor], Tensor],
    networks: tuple[str, ...],
    expected: str,
    **options: float,
) -> ModelKind:
    return _make_input_kind(name, lambda: FunctionLayer(function), networks, expected, **options)


INPUT_KINDS = (
    _make_function_kind(
        "rounded input", round_to_levels, ("cifar10", "signs", "gtsrb"), "D6b zero gradients; BPDA identity"
    ),
    _make_function_kind(
        "thresholded input", compare_with_thresholds, ("cifar10", "gtsrb", "signs-at"), "D6a no graph; BPDA"
    ),
    _make_function_kind("binarized input", snap_to_two_levels, ("mnist",), "D6a no graph; BPDA"),
    _make_input_kind("thermometer code", ThermometerCode, ("mnist", "signs"), "D6a no graph; BPDA"),
    _make_input_kind("JPEG without BPDA", BlockwiseJPEG, ("cifar10", "signs"), "D6b zero gradients; BPDA"),
    _make_function_kind(
        "median outside torch", filter_median_outside_torch, ("cifar10", "signs"), "D6a no graph; BPDA"
    ),
    _make_function_kind("numpy round trip", copy_through_numpy, ("mnist", "signs-at"), "D6a no graph; BPDA"),
    _make_function_kind(
        "strong ripple", add_ripple, ("cifar10", "signs"), "D7 finite differences; smoothing"
    ),
    _make_function_kind(
        "gentle ripple", add_gentle_ripple, ("cifar10", "signs-at"), "D7 finite differences; smoothing"
    ),
    _make_function_kind(
        "sawtooth pixels", add_sawtooth, ("cifar10", "signs"), "D7 at a distance; mean slopes, transfer"
    ),
    _make_function_kind("ranks of pixels", rank_pixels, ("cifar10", "signs"), "D6a no graph; BPDA"),
    _make_function_kind(
        "square roots of pixels", round_square_roots, ("mnist",), "not finite gradients, repaired"
    ),
)
"""Kinds that change the images."""
