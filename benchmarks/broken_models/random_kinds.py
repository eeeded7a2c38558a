"""Models that draw random numbers in every call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.composed_kinds import build_members
from benchmarks.broken_models.networks import PixelNetwork
from benchmarks.broken_models.surgery import insert_after_stem, preprocess


class RandomResizePad(nn.Module):
    """Another size and place each call, the same for all images of the batch.

    Source: Xie et al. 2018, "Mitigating adversarial effects through randomization".
    """

    def __init__(self, least_share: float = 0.85) -> None:
        super().__init__()
        self.least_share = least_share

    def forward(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        size = int(torch.randint(int(self.least_share * side), side + 1, ()))
        small = functional.interpolate(images, size=(size, size), mode="nearest")
        left, top = (int(torch.randint(0, side - size + 1, ())) for _ in range(2))
        return functional.pad(small, (left, side - size - left, top, side - size - top))


class AddedNoise(nn.Module):
    """Gaussian noise on the pixels, drawn by the given rule."""

    def __init__(self, sigma: float, source: str) -> None:
        super().__init__()
        self.sigma, self.source = sigma, source
        self.generator = torch.Generator().manual_seed(5) if source == "own" else None

    def forward(self, images: Tensor) -> Tensor:
        if self.source == "image":
            return images + self.sigma * torch.stack([_draw_from_image(image) for image in images])
        return images + self.sigma * torch.randn(images.shape, generator=self.generator)

    def __deepcopy__(self, memo: dict[int, object]) -> AddedNoise:
        twin = AddedNoise(self.sigma, self.source)
        if self.generator is not None and twin.generator is not None:
            twin.generator.set_state(self.generator.get_state())
        return twin


def _draw_from_image(image: Tensor) -> Tensor:
    """Noise whose seed is a hash of the pixels: a fixed function with no useful slope."""
    seed = int(image.detach().double().mul(997.0).sin().mul(1e6).sum().abs()) % (2**31)
    return torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


class ActiveDropout(nn.Module):
    """Dropout that evaluation mode does not switch off."""

    def __init__(self, share: float = 0.3) -> None:
        super().__init__()
        self.share = share

    def forward(self, features: Tensor) -> Tensor:
        return functional.dropout(features, self.share, training=True)


class BatchStatistics(nn.Module):
    """Batch norm that evaluation mode does not switch off: statistics of the present batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen_mean", torch.zeros(0))

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean(dim=(0, 2, 3), keepdim=True)
        deviation = images.std(dim=(0, 2, 3), keepdim=True, correction=0).clamp_min(1e-3)
        return ((images - means) / deviation * 0.25 + 0.4).clamp(0, 1)


class NoiseVote(nn.Module):
    """Votes of a few noisy copies; the counts have no slope.

    Source: Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing", PREDICT.
    """

    def __init__(self, network: PixelNetwork, draws: int, sigma: float) -> None:
        super().__init__()
        self.network, self.num_classes, self.draws, self.sigma = network, network.num_classes, draws, sigma

    def forward(self, images: Tensor) -> Tensor:
        votes = torch.zeros(len(images), self.num_classes)
        for _ in range(self.draws):
            labels = self.network(images + self.sigma * torch.randn_like(images)).argmax(dim=1)
            votes += functional.one_hot(labels, self.num_classes)
        return votes


class RandomMember(nn.Module):
    """One of the members, drawn each call."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.members[int(torch.randint(len(self.members), ()))](images)


class StochasticPruning(nn.Module):
    """Keeps activations at random, larger ones more often.

    Source: Dhillon et al. 2018, "Stochastic activation pruning for robust adversarial defense".
    """

    def forward(self, features: Tensor) -> Tensor:
        weight = features.detach().abs()
        chance = (1.5 * weight / weight.flatten(1).mean(dim=1).view(-1, 1, 1, 1)).clamp(0.05, 1)
        return features * (torch.rand_like(features) < chance) / chance


def _make_noise_kind(
    name: str, layer: Callable[[], nn.Module], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(
        name=name, build=lambda base: preprocess(base, layer()), networks=networks, expected=expected
    )


RANDOM_KINDS = (
    _make_noise_kind(
        "random resize and pad", RandomResizePad, ("cifar10", "signs-gaussian"), "D4, D21; expectation"
    ),
    _make_noise_kind(
        "noise, global generator",
        lambda: AddedNoise(0.1, "global"),
        ("cifar10", "signs-gaussian"),
        "D4, D21; expectation",
    ),
    _make_noise_kind(
        "noise, own generator", lambda: AddedNoise(0.1, "own"), ("mnist", "signs-gaussian"), "D4; expectation"
    ),
    _make_noise_kind(
        "noise, seed from image",
        lambda: AddedNoise(0.1, "image"),
        ("cifar10", "signs-gaussian"),
        "D7; smoothing, score-based",
    ),
    ModelKind(
        name="dropout always on",
        build=lambda base: insert_after_stem(base, ActiveDropout()),
        networks=("cifar10", "signs"),
        expected="D4, D21; expectation",
    ),
    _make_noise_kind("batch norm always on", BatchStatistics, ("mnist", "signs"), "depends on the batch"),
    ModelKind(
        name="noise vote of 8",
        build=lambda base: NoiseVote(base.build(), 8, 0.1).eval(),
        networks=("mnist", "signs-gaussian"),
        expected="D4, D6a; expectation over the network underneath",
        images=12,
    ),
    ModelKind(
        name="random member",
        build=lambda base: RandomMember(build_members(base)).eval(),
        networks=("mnist", "signs-at"),
        expected="D4; expectation, transfer from members",
        images=16,
    ),
    ModelKind(
        name="stochastic pruning",
        build=lambda base: insert_after_stem(base, StochasticPruning()),
        networks=("cifar10", "signs"),
        expected="D4, D21; expectation",
    ),
)
"""Kinds that draw random numbers."""
