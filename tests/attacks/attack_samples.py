"""Small classifiers and images for the attacks' tests; everything from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True)
class Sample:
    """A classifier with images in [0, 1] that it reads correctly."""

    classifier: Classifier
    images: Tensor
    labels: Tensor

    def build_stream(self, attack: Attack, seed: int = 0) -> RandomStream:
        return RandomStream(seed, tuple(f"image-{row}" for row in range(len(self.images))), repr(attack))

    def attack(self, attack: Attack, threat: ThreatModel, masks: Tensor | None = None) -> Tensor:
        with self.classifier.evaluation_mode():
            stream = self.build_stream(attack)
            return attack.perturb(self.classifier, self.images, self.labels, threat, stream, masks)

    def find_adversarial(self, candidates: Tensor, threat: ThreatModel) -> Tensor:
        with torch.no_grad():
            return threat.is_success(self.classifier(candidates).argmax(dim=1), self.labels)

    def select_images(self, index: Tensor) -> Sample:
        return Sample(self.classifier, self.images[index], self.labels[index])


def train_sample(classes: int = 5, count: int = 96, seed: int = 0) -> Sample:
    """A small convolutional network on noisy 8x8 colour patterns, trained in about a second."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        patterns = torch.rand(classes, 3, 8, 8)

        def draw(number: int) -> tuple[Tensor, Tensor]:
            labels = torch.randint(classes, (number,))
            noisy = 0.5 + 0.35 * (patterns[labels] - 0.5) + 0.15 * torch.randn(number, 3, 8, 8)
            return noisy.clamp(0, 1), labels

        model = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, classes),
        )  # fmt: skip
        parameters = list(model.parameters())
        velocity = [torch.zeros_like(each) for each in parameters]
        for _ in range(
            100
        ):  # momentum by hand: importing torch.optim's machinery takes longer than the training
            images, labels = draw(64)
            loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
            for each, speed, slope in zip(
                parameters, velocity, torch.autograd.grad(loss, parameters), strict=True
            ):
                each.data -= 0.1 * speed.mul_(0.9).add_(slope)
        images, labels = draw(2 * count)
    classifier = Classifier(model.eval(), num_classes=classes, name="small")
    with torch.no_grad():
        right = (classifier(images).argmax(dim=1) == labels).nonzero().flatten()[:count]
    return Sample(classifier, images[right], labels[right])


def build_linear_sample(
    weights: Tensor, bias: Tensor, images: Tensor, labels: Tensor | None = None
) -> Sample:
    """A linear classifier, weights (K, d), on the images that it reads as ``labels``, or all as predicted."""
    layer = nn.Linear(weights.shape[1], len(weights))
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.copy_(bias)
    classifier = Classifier(nn.Sequential(nn.Flatten(), layer), num_classes=len(weights), name="linear")
    with torch.no_grad():
        predictions = classifier(images).argmax(dim=1)
    return Sample(classifier, images, predictions if labels is None else labels)


def build_classifier(forward: Callable[[Tensor], Tensor], classes: int) -> Classifier:
    """A classifier from a differentiable function of images."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return forward(images)

    return Classifier(Model(), num_classes=classes, name="function")
