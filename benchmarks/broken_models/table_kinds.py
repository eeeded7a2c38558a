"""Answers that are looked up or counted: palettes, neighbors, votes, coefficients, traced rounding."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.input_kinds import FunctionLayer
from benchmarks.broken_models.networks import BaseNetwork, PixelNetwork
from benchmarks.broken_models.surgery import preprocess

_COLOURS, _FITTED_PIXELS, _ROUNDS = 24, 4000, 8
_NEIGHBORS = 7
_COEFFICIENT_STEP = 1.5


class Palette(nn.Module):
    """The nearest of 24 colours, which k-means finds in other images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        pixels = images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        pixels = pixels[order[:_FITTED_PIXELS]]
        colours = pixels[:_COLOURS].clone()
        for _ in range(_ROUNDS):
            nearest = torch.cdist(pixels, colours).argmin(dim=1)
            for number in nearest.unique().tolist():
                colours[number] = pixels[nearest == number].mean(dim=0)
        self.register_buffer("colours", colours)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1)
        nearest = torch.cdist(pixels.flatten(0, 2), self.colours).argmin(dim=1)
        return self.colours[nearest].view(pixels.shape).permute(0, 3, 1, 2)


class NeighborVote(nn.Module):
    """Labels of the seven nearest of other images, by the direction of the logits.

    Args:
        base: The network and the other images.
        is_soft: Whether all of them count, by a smooth function of the distance, as a sound model would.
    """

    def __init__(self, base: BaseNetwork, *, is_soft: bool) -> None:
        super().__init__()
        self.network, self.is_soft = base.build(), is_soft
        self.num_classes = self.network.num_classes
        images, labels = base.read_fitting_images()
        with torch.no_grad():
            self.register_buffer("codes", functional.normalize(self.network(images), dim=1))
        self.register_buffer("classes", functional.one_hot(labels, self.num_classes).float())

    def forward(self, images: Tensor) -> Tensor:
        distances = torch.cdist(functional.normalize(self.network(images), dim=1), self.codes)
        if self.is_soft:
            return torch.log(torch.exp(-10 * distances) @ self.classes + 1e-9)
        nearest = distances.topk(_NEIGHBORS, largest=False).indices
        return self.classes[nearest].sum(dim=1)


class ShiftVote(nn.Module):
    """Votes, or medians, over nine shifts of an image."""

    def __init__(self, network: PixelNetwork, *, is_median: bool) -> None:
        super().__init__()
        self.network, self.num_classes, self.is_median = network, network.num_classes, is_median

    def forward(self, images: Tensor) -> Tensor:
        offsets = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        answers = torch.stack([self.network(images.roll(offset, dims=(2, 3))) for offset in offsets])
        if self.is_median:
            return answers.median(dim=0).values
        return functional.one_hot(answers.argmax(dim=2), self.num_classes).sum(dim=0).to(images.dtype)


def round_coefficients(images: Tensor) -> Tensor:
    """The Fourier coefficients of each channel, rounded."""
    spectrum = torch.view_as_real(torch.fft.rfft2(images))
    rounded = (spectrum / _COEFFICIENT_STEP).round() * _COEFFICIENT_STEP
    return torch.fft.irfft2(torch.view_as_complex(rounded), s=images.shape[-2:]).clamp(0, 1)


def keep_high_bits(images: Tensor) -> Tensor:
    """The three highest bits of each byte."""
    return ((images * 255).to(torch.uint8) & 0xE0).to(images.dtype) / 0xE0


def _trace_rounded(base: BaseNetwork) -> nn.Module:
    """A traced module, inside which nothing can be replaced."""
    model = preprocess(base, FunctionLayer(lambda images: (images * 12).round() / 12))
    return _trace(model, base, int(model.num_classes))


class _Traced(nn.Module):
    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def trace_plainly(base: BaseNetwork) -> nn.Module:
    """The network, traced."""
    network = base.build()
    return _trace(network, base, network.num_classes)


def _trace(model: nn.Module, base: BaseNetwork, num_classes: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still what many models come as
        return _Traced(torch.jit.trace(model, base.data(2)[0], check_trace=False), num_classes).eval()


def _kind(
    name: str, build: Callable[[BaseNetwork], nn.Module], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(name=name, build=build, networks=networks, expected=expected, images=16)


TABLE_KINDS = (
    _kind(
        "fitted palette",
        lambda base: preprocess(base, Palette(base.read_fitting_images()[0])),
        ("cifar10", "signs"),
        "D6a no graph; BPDA",
    ),
    _kind(
        "vote of neighbors",
        lambda base: NeighborVote(base, is_soft=False).eval(),
        ("mnist", "signs"),
        "D6a no graph; network underneath",
    ),
    _kind(
        "vote over shifts",
        lambda base: ShiftVote(base.build(), is_median=False).eval(),
        ("cifar10", "signs"),
        "D6a no graph; network underneath",
    ),
    _kind(
        "median over shifts",
        lambda base: ShiftVote(base.build(), is_median=True).eval(),
        ("cifar10", "signs"),
        "D7; gradients shared among neighbors by rank",
    ),
    _kind(
        "Fourier coefficients rounded",
        lambda base: preprocess(base, FunctionLayer(round_coefficients)),
        ("cifar10", "signs"),
        "D6b zero gradients; BPDA",
    ),
    _kind(
        "high bits only",
        lambda base: preprocess(base, FunctionLayer(keep_high_bits)),
        ("mnist", "signs"),
        "D6a no graph; BPDA",
    ),
    _kind("traced with rounding", _trace_rounded, ("mnist", "signs"), "D6b zero gradients; BPDA"),
)
"""Kinds that look up or count."""
