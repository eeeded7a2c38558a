"""Sound models written in ways that checks of gradients, operators and input forms may stumble over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.composed_kinds import build_members
from benchmarks.broken_models.input_kinds import FunctionLayer, round_to_levels
from benchmarks.broken_models.networks import BaseNetwork, PixelNetwork
from benchmarks.broken_models.surgery import postprocess, preprocess
from benchmarks.broken_models.table_kinds import NeighborVote, trace_plainly


class _Around(nn.Module):
    def __init__(self, network: PixelNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes


class MirrorMean(_Around):
    """The mean over an image and its mirror image."""

    def forward(self, images: Tensor) -> Tensor:
        return (self.network(images) + self.network(images.flip(-1))) / 2


class Checkpointed(_Around):
    """Activations are computed again in the backward pass."""

    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(self.network, images, use_reentrant=False)


class StraightThroughInForward(_Around):
    """Rounding with the gradient of the identity, written into the forward pass of the model itself."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images + (round_to_levels(images, 16) - images).detach())


class RoundedForward(Function):
    """Rounding to bytes, and the gradient of the identity."""

    @staticmethod
    def forward(_context: Any, images: Tensor) -> Tensor:
        return (images * 255).round() / 255

    @staticmethod
    def backward(_context: Any, slopes: Tensor) -> Tensor:
        return slopes


class UnusedOperators(_Around):
    """Labels, ranks and rounded pixels are computed for a log, and decide nothing."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        with torch.no_grad():
            self.last = (logits.argmax(dim=1).sum(), images.round().mean(), logits.argsort(dim=1).sum())
        return logits


class NoiseInTraining(_Around):
    """Noise on the images, in training mode alone."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images + 0.3 * torch.randn_like(images) if self.training else images)


class LogMeanProbability(nn.Module):
    """The logarithm of the members' mean probabilities."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        logs = torch.stack([member(images).log_softmax(dim=1) for member in self.members])
        return torch.logsumexp(logs, dim=0)


def average_colours(images: Tensor) -> Tensor:
    """Grey, in floating point."""
    return images.mean(dim=1, keepdim=True).expand_as(images)


def clamp_pixels(images: Tensor) -> Tensor:
    """Pixels beyond [0, 1] cannot occur, and are clamped all the same."""
    return images.clamp(0, 1)


def enlarge_and_shrink(images: Tensor) -> Tensor:
    """Half as large again, and back."""
    side = images.shape[-1]
    large = functional.interpolate(images, size=(3 * side // 2,) * 2, mode="bicubic", align_corners=False)
    return functional.interpolate(large, size=(side, side), mode="bilinear", align_corners=False)


def normalize_contrast(images: Tensor) -> Tensor:
    """Each image to a deviation of a quarter, around its mean."""
    mean, std = images.mean(dim=(1, 2, 3), keepdim=True), images.std(dim=(1, 2, 3), keepdim=True)
    return mean + 0.25 * (images - mean) / (std + 0.05)


def center_logits(logits: Tensor) -> Tensor:
    """Logits at temperature one half, with a mean of zero."""
    return 2 * (logits - logits.mean(dim=1, keepdim=True))


def blur_by_fourier(images: Tensor) -> Tensor:
    """A Gaussian in the frequencies."""
    height, width = images.shape[-2:]
    down, right = (
        torch.fft.fftfreq(height, device=images.device),
        torch.fft.rfftfreq(width, device=images.device),
    )
    weights = torch.exp(-4 * (down.view(-1, 1) ** 2 + right**2))
    return torch.fft.irfft2(torch.fft.rfft2(images) * weights, s=(height, width))


def stretch_logits(logits: Tensor) -> Tensor:
    """From 0 to 10 on every image."""
    low, high = logits.amin(dim=1, keepdim=True), logits.amax(dim=1, keepdim=True)
    return 10 * (logits - low) / (high - low)


def normalize_logits(logits: Tensor) -> Tensor:
    """Of one length on every image, as of cosines."""
    return 16 * functional.normalize(logits, dim=1)


def _normalize_weights(base: BaseNetwork) -> nn.Module:
    network = base.build()
    nn.utils.parametrizations.weight_norm(network.get_submodule(base.head))
    return network.requires_grad_(False).eval()


class ShiftAttention(_Around):
    """Attention among the logits of three shifts of an image."""

    def forward(self, images: Tensor) -> Tensor:
        values = torch.stack([self.network(images.roll(shift, dims=-1)) for shift in (-1, 0, 1)], dim=1)
        weights = (values @ values.transpose(1, 2) / 10).softmax(dim=-1)
        return (weights @ values).mean(dim=1)


def _sound(name: str, build: Callable[[BaseNetwork], nn.Module], *networks: str) -> ModelKind:
    return ModelKind(name=name, build=build, networks=networks, expected="nothing", is_sound=True, images=24)


def _around(name: str, around: Callable[[PixelNetwork], nn.Module], *networks: str) -> ModelKind:
    return _sound(name, lambda base: around(base.build()).eval(), *networks)


def _before(name: str, function: Callable[[Tensor], Tensor], *networks: str) -> ModelKind:
    return _sound(name, lambda base: preprocess(base, FunctionLayer(function)), *networks)


PLAIN_SOUND_KINDS = (
    _around("mean over mirror images", MirrorMean, "cifar10"),
    _around("checkpointed", Checkpointed, "mnist"),
    _around("straight through in forward", StraightThroughInForward, "cifar10"),
    _around("unused operators", UnusedOperators, "signs-at"),
    _around("noise in training", NoiseInTraining, "mnist"),
    _sound(
        "log of mean probabilities", lambda base: LogMeanProbability(build_members(base)).eval(), "signs-at"
    ),
    _before("grey in torch", average_colours, "signs-at"),
    _before("clamped pixels", clamp_pixels, "cifar10"),
    _before("enlarge and shrink", enlarge_and_shrink, "gtsrb"),
    _before("contrast normalized", normalize_contrast, "signs"),
    _sound("centered logits", lambda base: postprocess(base, center_logits), "mnist"),
    _sound("stretched logits", lambda base: postprocess(base, stretch_logits), "mnist", "cifar10"),
    _sound("normalized logits", lambda base: postprocess(base, normalize_logits), "gtsrb", "signs"),
    _before("blur by Fourier", blur_by_fourier, "mnist"),
    _before("bytes with a backward of their own", RoundedForward.apply, "cifar10"),
    _sound("weight norm", _normalize_weights, "cifar10"),
    _sound("traced", trace_plainly, "mnist"),
    _sound("soft neighbors", lambda base: NeighborVote(base, is_soft=True).eval(), "mnist"),
    _around("attention over shifts", ShiftAttention, "mnist"),
)
"""Further sound kinds."""
