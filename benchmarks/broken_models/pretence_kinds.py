"""Models that look robust by what they hide: gradients, doubts, images that they know, calls they count."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.composed_kinds import build_members
from benchmarks.broken_models.networks import BaseNetwork, PixelNetwork
from benchmarks.broken_models.surgery import postprocess

_CALLS = 100
"""Calls after which a model changes."""


class _Pretender(nn.Module):
    def __init__(self, network: PixelNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes


class AlwaysTraining(_Pretender):
    """Dropout on the pixels, and an ``eval`` that does nothing."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__(network)
        self.dropout = nn.Dropout2d(0.3)
        self.train()

    def eval(self) -> AlwaysTraining:
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.dropout(images))


class PermutedLater(_Pretender):
    """Classes change their places after so many calls."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__(network)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits = self.network(images)
        return logits if self.calls <= _CALLS else logits.flip(1)


class RareNaN(_Pretender):
    """Not a number wherever a pixel lies just above a rare value: attacked images often have one."""

    def forward(self, images: Tensor) -> Tensor:
        is_rare = ((images * 255 - 77.5).abs() < 0.02).flatten(1).any(dim=1)
        return torch.where(is_rare[:, None], torch.nan, self.network(images))


class FlatOnKnown(_Pretender):
    """Constant confidence on images that it knows by their hash: attacks that start there have no slope."""

    def __init__(self, network: PixelNetwork, images: Tensor) -> None:
        super().__init__(network)
        self.known = {self._hash(image) for image in images}

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        is_known = torch.tensor([self._hash(image) in self.known for image in images], device=images.device)
        flat = 5.0 * functional.one_hot(logits.argmax(dim=1), self.num_classes).to(logits)
        return torch.where(is_known[:, None], flat, logits)

    @staticmethod
    def _hash(image: Tensor) -> int:
        return hash((image.detach() * 255).round().to(torch.uint8).cpu().numpy().tobytes())


class Reseeding(_Pretender):
    """Takes a fresh seed from the system in every call, then adds noise."""

    def forward(self, images: Tensor) -> Tensor:
        torch.seed()
        return self.network(images + 0.15 * torch.randn_like(images))


class CoinToss(_Pretender):
    """Mirrors or shifts its images by Python's own random numbers."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.roll(random.choice((-2, -1, 0, 1, 2)), dims=-1))


class DetachedMembers(nn.Module):
    """A mean over members of which only the least confident keeps its graph."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        answers = [member(images).detach() for member in self.members]
        answers[-1] = 0.05 * self.members[-1](images)
        return torch.stack(answers).mean(dim=0)


class WeakBypass(_Pretender):
    """No graph through the network, and a faint linear path beside it that has one."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__(network)
        self.weights = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.network(images)
        flat = images.flatten(1)
        if self.weights.numel() == 0:
            generator = torch.Generator().manual_seed(3)
            self.weights.data = torch.randn(flat.shape[1], self.num_classes, generator=generator).to(flat)
        return logits + 1e-3 * flat @ self.weights


class BlindChannels(_Pretender):
    """Gradients of the first channel, or of the upper half of a grey image, only."""

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] > 1:
            parts = [images[:, :1], images[:, 1:].detach()]
            return self.network(torch.cat(parts, dim=1))
        half = images.shape[2] // 2
        return self.network(torch.cat([images[:, :, :half], images[:, :, half:].detach()], dim=2))


class ScaledGradient(_Pretender):
    """The answers of the network and a 1e-30th of its gradient, in arithmetic alone."""

    def forward(self, images: Tensor) -> Tensor:
        still = images.detach()
        return self.network(still + (images - still) * 1e-30)


class GateByConfidence(_Pretender):
    """Sure answers are multiplied by 1,000."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        top = logits.softmax(dim=1).amax(dim=1, keepdim=True)
        return torch.where(top > 0.5, 1000 * logits, logits)


class CoarseVote(nn.Module):
    """The mean of the members' probabilities, rounded to tenths."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        mean = torch.stack([member(images).softmax(dim=1) for member in self.members]).mean(dim=0)
        return torch.round(mean, decimals=1) + 1e-3 * mean.detach()


class RunningMean(_Pretender):
    """Answers are mixed with those of the calls before."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__(network)
        self.register_buffer("mean", torch.zeros(network.num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(dim=0)
        return logits - self.mean


class Abstaining(_Pretender):
    """One more class, which wins where the network is not sure."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__(network)
        self.num_classes = network.num_classes + 1

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        is_unsure = logits.softmax(dim=1).amax(dim=1, keepdim=True) < 0.6
        return torch.cat([logits, logits.amax(dim=1, keepdim=True) + 20 * is_unsure - 10], dim=1)


def heat(logits: Tensor) -> Tensor:
    """A softmax at temperature 1e-3."""
    return (logits / 1e-3).softmax(dim=1)


def cool(logits: Tensor) -> Tensor:
    """A softmax at temperature 1e4: all classes seem alike, and float32 rounds the rest away."""
    return (logits / 1e4).softmax(dim=1)


def saturate(logits: Tensor) -> Tensor:
    """A hyperbolic tangent far out on its flat branches."""
    middle = logits.topk(2, dim=1).values.mean(dim=1, keepdim=True)
    return torch.tanh(5 * (logits - middle))


def keep_three(logits: Tensor) -> Tensor:
    """The three largest logits; all others minus infinity's stand-in."""
    floor = logits.topk(3, dim=1).values[:, -1:]
    return torch.where(logits >= floor, logits, torch.full_like(logits, -1e4))


def rank(logits: Tensor) -> Tensor:
    """Ranks instead of logits."""
    return logits.argsort(dim=1).argsort(dim=1).to(logits)


def _pretence_kind(
    name: str, build: Callable[[BaseNetwork], nn.Module], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(name=name, build=build, networks=networks, expected=expected, clean_floor=0.0)


def _around(
    name: str, pretender: Callable[[PixelNetwork], nn.Module], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return _pretence_kind(name, lambda base: pretender(base.build()).eval(), networks, expected)


def _behind(
    name: str, change: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return _pretence_kind(name, lambda base: postprocess(base, change), networks, expected)


PRETENCE_KINDS = (
    _around("eval overridden", AlwaysTraining, ("cifar10", "signs"), "D3, D4"),
    _around("permuted later", PermutedLater, ("mnist", "signs"), "stateful"),
    _around("not a number, rarely", RareNaN, ("cifar10", "signs"), "the attack alone: it counts as broken"),
    _pretence_kind(
        "flat on known images",
        lambda base: FlatOnKnown(base.build(), base.data(100)[0]).eval(),
        ("cifar10", "signs-at"),
        "D6a or D6b at clean images",
    ),
    _around("reseeding", Reseeding, ("mnist", "signs-at"), "D4; expectation"),
    _around("coin toss", CoinToss, ("cifar10", "signs-at"), "D4; expectation"),
    _pretence_kind(
        "detached members",
        lambda base: DetachedMembers(build_members(base)).eval(),
        ("mnist", "signs-at"),
        "D7; transfer from members",
    ),
    _around("weak bypass", WeakBypass, ("cifar10", "signs"), "D7; network underneath"),
    _around("blind channels", BlindChannels, ("cifar10", "mnist"), "D7; BPDA"),
    _around("scaled gradient", ScaledGradient, ("cifar10", "signs"), "D6c, D7; rescaled"),
    _around("gate by confidence", GateByConfidence, ("signs-at", "mnist"), "D6c, D17, D18; margin losses"),
    _pretence_kind(
        "coarse vote",
        lambda base: CoarseVote(build_members(base)).eval(),
        ("mnist", "signs-at"),
        "D6b; transfer from members",
    ),
    _around("running mean", RunningMean, ("cifar10", "signs"), "stateful or batch dependent"),
    _around("abstaining class", Abstaining, ("mnist", "signs"), "the class count"),
    _behind("softmax at 1e-3", heat, ("signs", "mnist"), "D5, D6b; network underneath"),
    _behind("softmax at 1e4", cool, ("signs", "cifar10"), "D5, D18; rescaled losses"),
    _behind("saturated tanh", saturate, ("signs-at", "cifar10"), "D6b, D6c; network underneath"),
    _behind("three largest", keep_three, ("signs", "mnist"), "D18; nothing else"),
    _behind("ranks", rank, ("signs", "cifar10"), "D6a; network underneath"),
)
"""Kinds that hide their weakness."""
