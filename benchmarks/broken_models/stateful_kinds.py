"""Models that answer by more than the image: history, batch, clock, gradient mode, or the data set."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.networks import BaseNetwork, PixelNetwork

_SURE = 10.0
"""The logit of a remembered label."""


class _Guard(nn.Module):
    """A network behind a rule of its own."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Logits that leave no doubt."""
        return _SURE * functional.one_hot(labels, self.num_classes).float()


class NearCache(_Guard):
    """Gives the earlier label near an image that it was asked about before."""

    def __init__(self, network: PixelNetwork, radius: float) -> None:
        super().__init__(network)
        self.radius = radius
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        answers = []
        for image, row in zip(images, logits, strict=True):
            earlier = [kept for pixels, kept in self.seen if self._is_near(pixels, image)]
            answers.append(earlier[0] if earlier else row)
            if not earlier:
                self.seen = [*self.seen[-200:], (image.detach().clone(), row.detach().clone())]
        return torch.stack(answers)

    def _is_near(self, pixels: Tensor, image: Tensor) -> bool:
        return float((pixels - image.detach()).abs().max()) <= self.radius


class QueryLimit(_Guard):
    """Answers at random once it has been asked often."""

    def __init__(self, network: PixelNetwork, limit: int = 400) -> None:
        super().__init__(network)
        self.limit, self.count = limit, 0

    def forward(self, images: Tensor) -> Tensor:
        self.count += len(images)
        logits = self.network(images)
        return logits if self.count <= self.limit else logits.roll(self.count % self.num_classes, dims=1)


class BatchMean(_Guard):
    """Subtracts the batch's mean logits."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits - 0.5 * logits.mean(dim=0, keepdim=True)


class ClockSwitch(_Guard):
    """Turns its images by the clock."""

    def forward(self, images: Tensor) -> Tensor:
        shift = int(time.monotonic() * 1000) % 3
        return self.network(images.roll(shift - 1, dims=-1))


class GradientModeSwitch(_Guard):
    """Another answer while gradients are recorded."""

    def forward(self, images: Tensor) -> Tensor:
        recorded = torch.is_grad_enabled() and images.requires_grad
        return self.network(images.flip(-1) if recorded else images)


class OffGridSwitch(_Guard):
    """Keeps to a blurred copy where pixels do not lie on the 8-bit grid."""

    def forward(self, images: Tensor) -> Tensor:
        levels = images.detach() * 255
        is_off = (levels - levels.round()).abs().flatten(1).amax(dim=1) > 1e-3
        rounded = (images.detach() * 15).round() / 15
        return self.network(torch.where(is_off.view(-1, 1, 1, 1), rounded, images))


class KnownImages(_Guard):
    """A table of the test images: exact copies get their true label, whatever the network says."""

    def __init__(self, network: PixelNetwork, images: Tensor, labels: Tensor) -> None:
        super().__init__(network)
        self.register_buffer("keys", (images * 255).round().to(torch.uint8).flatten(1))
        self.register_buffer("values", labels)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        query = (images.detach() * 255).round().to(torch.uint8).flatten(1)
        equal = (query[:, None] == self.keys[None]).all(dim=2)
        known = equal.any(dim=1)
        return torch.where(
            known[:, None], self.encode_labels(self.values[equal.float().argmax(dim=1)]), logits
        )


class SignedNoiseDetector(_Guard):
    """Undoes changes in which most pixels move by exactly the radius: it knows the test images."""

    def __init__(self, network: PixelNetwork, images: Tensor, radius: float) -> None:
        super().__init__(network)
        self.radius = radius
        self.register_buffer("known", images)

    def forward(self, images: Tensor) -> Tensor:
        change = (images.detach()[:, None] - self.known[None]).abs().flatten(2)
        nearest = change.amax(dim=2).argmin(dim=1)
        near = change[torch.arange(len(images)), nearest]
        is_attack = ((near - self.radius).abs() < 1e-4).float().mean(dim=1) > 0.2
        return self.network(torch.where(is_attack.view(-1, 1, 1, 1), self.known[nearest], images))


def _guard_kind(
    name: str, guard: Callable[[BaseNetwork], nn.Module], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(
        name=name, build=lambda base: guard(base).eval(), networks=networks, expected=expected, images=12
    )


def _parse_radius(base: BaseNetwork) -> float:
    return float(base.threat.partition("-")[2]) / 255


STATEFUL_KINDS = (
    _guard_kind(
        "cache of near images",
        lambda base: NearCache(base.build(), 2 * _parse_radius(base)),
        ("cifar10", "signs"),
        "stateful: the same image asked twice, order reversed",
    ),
    _guard_kind(
        "limit of queries",
        lambda base: QueryLimit(base.build()),
        ("mnist", "signs"),
        "stateful: answers change with the number of calls",
    ),
    _guard_kind(
        "batch mean subtracted",
        lambda base: BatchMean(base.build()),
        ("cifar10", "signs-at"),
        "depends on the batch",
    ),
    _guard_kind(
        "switch by the clock",
        lambda base: ClockSwitch(base.build()),
        ("mnist", "signs"),
        "D4; time-dependent state",
    ),
    _guard_kind(
        "switch by gradient mode",
        lambda base: GradientModeSwitch(base.build()),
        ("cifar10", "signs"),
        "answers differ while gradients are recorded",
    ),
    _guard_kind(
        "switch off the 8-bit grid",
        lambda base: OffGridSwitch(base.build()),
        ("cifar10", "signs"),
        "D7; candidates on the grid, network underneath",
    ),
    _guard_kind(
        "table of test images",
        lambda base: KnownImages(base.build(), *base.data(100)),
        ("cifar10", "signs-at"),
        "D6b at clean images, D7; network underneath",
    ),
    _guard_kind(
        "detector of signed noise",
        lambda base: SignedNoiseDetector(base.build(), base.data(100)[0], _parse_radius(base)),
        ("cifar10", "signs"),
        "network underneath; candidates inside the ball, score-based",
    ),
)
"""Kinds that answer by more than the image."""
