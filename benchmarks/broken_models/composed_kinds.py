"""Ensembles, purifiers and detectors around sound networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.networks import NETWORKS, BaseNetwork, PixelNetwork
from benchmarks.broken_models.surgery import preprocess

MEMBERS = {
    "mnist": ("mnist", "mnist-trades", "mnist-convex"),
    "signs": ("signs", "signs-trades", "signs-distilled"),
    "signs-at": ("signs-at", "signs-trades", "signs-gaussian"),
}
"""Members of the ensembles, by the network that they are named after."""


class CrossMax(nn.Module):
    """Robust aggregation: logits centred by member, then by class; the median member of each class.

    Source: Fort & Lakshminarayanan 2024, "Ensemble everything everywhere", section 3.2.
    """

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        stacked = torch.stack([member(images) for member in self.members])
        centred = stacked - stacked.amax(dim=2, keepdim=True)
        centred = centred - centred.amax(dim=0, keepdim=True)
        return centred.median(dim=0).values


class MeanProbability(nn.Module):
    """The mean of the members' probabilities."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images).softmax(dim=1) for member in self.members]).mean(dim=0)


class MajorityLabel(nn.Module):
    """Votes of the members' labels."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        labels = torch.stack([member(images).argmax(dim=1) for member in self.members])
        return functional.one_hot(labels, self.num_classes).sum(dim=0).to(images.dtype)


class MeanRank(nn.Module):
    """The mean of the ranks that the members give to each class."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        stacked = torch.stack([member(images) for member in self.members])
        return stacked.argsort(dim=2).argsort(dim=2).to(images.dtype).mean(dim=0)


class SecondLargest(nn.Module):
    """The second largest of the members' probabilities of each class."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        stacked = torch.stack([member(images).softmax(dim=1) for member in self.members])
        return stacked.topk(2, dim=0).values[-1]


class VariationMinimizer(nn.Module):
    """Gradient descent on total variation and distance, inside forward.

    Source: Guo et al. 2018, "Countering adversarial images using input transformations", section 4.4.
    """

    def __init__(self, steps: int = 8, weight: float = 0.03, rate: float = 0.1) -> None:
        super().__init__()
        self.steps, self.weight, self.rate = steps, weight, rate

    def forward(self, images: Tensor) -> Tensor:
        target = images.detach()
        current = target.clone()
        with torch.enable_grad():
            for _ in range(self.steps):
                current = current.detach().requires_grad_()
                down = (current.diff(dim=2).square() + 1e-4).sqrt().sum()
                across = (current.diff(dim=3).square() + 1e-4).sqrt().sum()
                loss = (current - target).square().sum() / 2 + self.weight * (down + across)
                (slope,) = torch.autograd.grad(loss, current)
                current = current - self.rate * slope
        return current.detach().clamp(0, 1)


class BilateralFilter(nn.Module):
    """A 5x5 bilateral filter whose weights are computed without a graph.

    Source: Tomasi & Manduchi 1998, "Bilateral filtering for gray and color images".
    """

    def __init__(self, sigma_space: float = 1.0, sigma_value: float = 0.1, *, keeps_graph: bool) -> None:
        super().__init__()
        self.sigma_space, self.sigma_value, self.keeps_graph = sigma_space, sigma_value, keeps_graph

    def forward(self, images: Tensor) -> Tensor:
        source = images if self.keeps_graph else images.detach()
        patches = functional.unfold(functional.pad(source, (2, 2, 2, 2), mode="replicate"), 5)
        batch, channels, height, width = images.shape
        patches = patches.view(batch, channels, 25, height, width)
        centre = patches[:, :, 12:13]
        offsets = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")) - 2
        space = offsets.square().sum(dim=0).flatten().view(1, 1, 25, 1, 1) / (2 * self.sigma_space**2)
        value = (patches - centre).square().sum(dim=1, keepdim=True) / (2 * self.sigma_value**2)
        weight = torch.exp(-space - value)
        return (patches * weight).sum(dim=2) / weight.sum(dim=2)


class LinearAutoencoder(nn.Module):
    """Projection onto the principal components of other images."""

    def __init__(self, images: Tensor, components: int, *, keeps_graph: bool) -> None:
        super().__init__()
        flat = images.flatten(1)
        self.register_buffer("mean", flat.mean(dim=0))
        basis = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False).Vh[:components]
        self.register_buffer("basis", basis.contiguous())
        self.keeps_graph = keeps_graph

    def forward(self, images: Tensor) -> Tensor:
        flat = (images if self.keeps_graph else images.detach()).flatten(1) - self.mean
        return (flat @ self.basis.T @ self.basis + self.mean).clamp(0, 1).view(images.shape)


class NoisyPurifier(nn.Module):
    """Noise, then a filter without a graph: what a diffusion purifier does, in one step.

    Source: Nie et al. 2022, "Diffusion models for adversarial purification".
    """

    def __init__(self, sigma: float = 0.05) -> None:
        super().__init__()
        self.sigma, self.denoiser = sigma, BilateralFilter(sigma_value=0.15, keeps_graph=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.denoiser(images + self.sigma * torch.randn_like(images))


class SqueezeDetector(nn.Module):
    """Rejects an image whose prediction changes when it is rounded to few grey levels.

    Source: Xu et al. 2018, "Feature squeezing: detecting adversarial examples in deep neural networks".

    Args:
        network: The network.
        limit: L1 distance of the probabilities above which an image is rejected.
        answer: ``"class"``: an extra last class says so; ``"flat"``: all logits are equal.
    """

    def __init__(self, network: PixelNetwork, limit: float, answer: str) -> None:
        super().__init__()
        self.network, self.limit, self.answer = network, limit, answer
        self.num_classes = network.num_classes + (answer == "class")

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        squeezed = self.network((images * 15).round() / 15)
        distance = (logits.softmax(dim=1) - squeezed.softmax(dim=1)).abs().sum(dim=1)
        rejected = distance > self.limit
        if self.answer == "flat":
            return torch.where(rejected[:, None], torch.zeros_like(logits), logits)
        top = logits.amax(dim=1)
        extra = torch.where(rejected, top + 1, top - 1)
        return torch.cat([logits, extra[:, None]], dim=1)


class MaxOverShifts(nn.Module):
    """The largest logit of each class over small shifts; differentiable nearly everywhere."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
        height, width = images.shape[-2:]
        views = [
            padded[..., top : top + height, left : left + width] for top, left in ((1, 1), (0, 1), (1, 2))
        ]
        return torch.stack([self.network(view) for view in views]).amax(dim=0)


def build_members(base: BaseNetwork) -> list[PixelNetwork]:
    """Fresh copies of the members that belong to a network."""
    return [NETWORKS[name].build() for name in MEMBERS[base.name]]


def _encode(base: BaseNetwork, *, keeps_graph: bool) -> nn.Module:
    images, _ = base.read_fitting_images()
    return preprocess(base, LinearAutoencoder(images, 150, keeps_graph=keeps_graph))


COMPOSED_KINDS = (
    ModelKind(
        name="CrossMax ensemble",
        build=lambda base: CrossMax(build_members(base)).eval(),
        networks=("mnist", "signs"),
        expected="D6b; transfer from members",
        images=16,
    ),
    ModelKind(
        name="mean of probabilities",
        build=lambda base: MeanProbability(build_members(base)).eval(),
        networks=("mnist", "signs"),
        expected="D5, D6c; logarithm, transfer from members",
        images=16,
    ),
    ModelKind(
        name="majority of labels",
        build=lambda base: MajorityLabel(build_members(base)).eval(),
        networks=("mnist", "signs-at"),
        expected="D6a; transfer from members",
        images=16,
    ),
    ModelKind(
        name="mean of ranks",
        build=lambda base: MeanRank(build_members(base)).eval(),
        networks=("mnist", "signs-at"),
        expected="D6a, D28; comparisons, transfer from members",
        images=16,
    ),
    ModelKind(
        name="second largest probability",
        build=lambda base: SecondLargest(build_members(base)).eval(),
        networks=("mnist", "signs"),
        expected="D5, D28; transfer from members",
        images=16,
    ),
    ModelKind(
        name="variation minimization",
        build=lambda base: preprocess(base, VariationMinimizer()),
        networks=("cifar10", "signs"),
        expected="D20, D6a; BPDA",
        images=12,
    ),
    ModelKind(
        name="bilateral filter without graph",
        build=lambda base: preprocess(base, BilateralFilter(keeps_graph=False)),
        networks=("cifar10", "signs"),
        expected="D6a; BPDA",
        images=16,
    ),
    ModelKind(
        name="autoencoder without graph",
        build=lambda base: _encode(base, keeps_graph=False),
        networks=("mnist", "signs"),
        expected="D6a; BPDA",
    ),
    ModelKind(
        name="noisy purifier",
        build=lambda base: preprocess(base, NoisyPurifier()),
        networks=("cifar10", "signs-gaussian"),
        expected="D4, D6a; expectation over BPDA",
        images=12,
    ),
    ModelKind(
        name="detector, extra class",
        build=lambda base: SqueezeDetector(base.build(), 0.6, "class").eval(),
        networks=("cifar10", "signs"),
        expected="rejected is not robust: judged by misclassified and accepted",
    ),
    ModelKind(
        name="detector, flat logits",
        build=lambda base: SqueezeDetector(base.build(), 0.6, "flat").eval(),
        networks=("cifar10", "signs"),
        expected="D6b; network underneath",
    ),
)
"""Kinds that combine networks or stand around one."""
