"""Small models with known gradients, behind operators that mask them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_local.attacks.adaptive.findings import ModelFindings
from robustbench_local.attacks.adaptive.inspection import inspect_model
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream

CLASSES, SHAPE = 5, (3, 6, 6)


def build_linear(seed: int = 0) -> nn.Linear:
    """A linear layer on flat images with frozen random weights."""
    weight = torch.randn(CLASSES, 108, generator=torch.Generator().manual_seed(seed))
    layer = nn.Linear(108, CLASSES)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(CLASSES)})
    return layer.requires_grad_(requires_grad=False)


def build_images(count: int = 8) -> Tensor:
    """Images strictly inside the box, no value on a multiple of 1/8."""
    return 0.02 + 0.96 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


class Behind(nn.Module):
    """A linear model behind a function of the images."""

    def __init__(self, front: Callable[[Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.front, self.linear, self.scale = front, build_linear(), scale

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.front(images).flatten(1)) * self.scale


def wrap_model(model: nn.Module | Callable[[Tensor], Tensor], classes: int = CLASSES) -> Classifier:
    return Classifier(model, num_classes=classes, access="gradients")


def inspect_sample(classifier: Classifier, images: Tensor | None = None) -> ModelFindings:
    images = build_images() if images is None else images
    with torch.no_grad():
        labels = classifier(images).argmax(dim=1)
    stream = RandomStream(0, tuple(f"image-{row}" for row in range(len(images))), "inspection")
    return inspect_model(classifier, images, labels, stream)


def get_linear_gradient(count: int, index: int = 0) -> Tensor:
    """The gradient of one logit of the linear model, (count, C, H, W)."""
    return build_linear().weight[index].detach().view(1, *SHAPE).expand(count, *SHAPE)
