"""A linear classifier whose robustness has a closed form, and data for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset

SHAPE = (3, 4, 4)


class LinearNetwork(nn.Module):
    """Logits are a matrix times the pixels: margins and distances have closed forms."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        size = SHAPE[0] * SHAPE[1] * SHAPE[2]
        self.weight = nn.Parameter(torch.randn(classes, size, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T


@pytest.fixture
def linear() -> Classifier:
    return Classifier(LinearNetwork(), num_classes=4, name="linear")


@pytest.fixture
def data() -> Dataset:
    """Sixty 8-bit images, each labelled as the linear model reads it, except every tenth."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(60, 196, (60, *SHAPE), generator=generator).float() / 255
    labels = LinearNetwork()(images).argmax(dim=1).detach()
    labels[::10] = (labels[::10] + 1) % 4
    names = ("stop", "20", "30", "50")
    return Dataset(
        images=images,
        labels=labels,
        ids=tuple(f"made/{i}" for i in range(60)),
        class_names=names,
        name="made",
    )


@pytest.fixture(scope="module", autouse=True)
def _short_runs(blank_figures: None, full_batch_size: int) -> None:
    """Runs here try few batch sizes, and their reports have blank figures, which tests/reports draws."""
